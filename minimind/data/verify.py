"""Whether prepared data are what they were made as, before a run relies on them."""

from minimind.data.config import Verify
from minimind.data.prepare import TRAIN, VALIDATION, PreparedData
from minimind.tokenizer.bpe import BPE
from minimind.utils.errors import UserError
from minimind.utils.progress import progress_bar


def verify(data: PreparedData, tokenizer: BPE, how: Verify) -> None:
    """Manifests, sizes, headers and the tokenizer always; with `full` every byte too.

    Raises:
        UserError: naming the file that is not what it should be, and what to do.
    """
    streams = [stream for split in (TRAIN, VALIDATION) for stream in data.streams(split)]
    for stream in streams:
        if stream.tokenizer_hash != tokenizer.hash:
            raise UserError(
                f"{data.tokenizer_path} must be the tokenizer that made the shards in {stream.folder}, but is another; "
                f"delete {stream.folder.parent} and run the same command to prepare the data again."
            )
    if how is not Verify.full:
        return
    shards = [(stream, number) for stream in streams for number in range(len(stream.shards))]
    sizes = [stream.folder.joinpath(stream.shards[number].name).stat().st_size for stream, number in shards]
    with progress_bar("Verifying token shards", sum(sizes)) as advance:
        for (stream, number), size in zip(shards, sizes, strict=True):
            stream.verify_shard(number)
            advance(size)
