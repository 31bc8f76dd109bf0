"""What general-purpose compressors make of the same text: a yardstick everybody has."""

import gzip
import lzma

from minimind.data.shards import TokenStream
from minimind.tokenizer.bpe import BPE

LARGEST_TEXT = 64_000_000  # bytes; more would take minutes


def compressor_bits_per_byte(text: bytes) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9` on the whole text as one file."""
    sizes = {"gzip -9": len(gzip.compress(text, compresslevel=9)), "xz -9": len(lzma.compress(text, preset=9))}
    return {name: 8 * size / max(1, len(text)) for name, size in sizes.items()}


def compressors_on(streams: list[TokenStream], tokenizer: BPE) -> dict[str, float]:
    """The same of all documents of some streams, decoded; nothing where they are too many.

    Nothing either where only some tokens are targets: the model's bits per byte are then of those alone.
    """
    if any(stream.has_targets for stream in streams) or sum(stream.text_bytes for stream in streams) > LARGEST_TEXT:
        return {}
    documents = (stream.document(index) for stream in streams for index in range(stream.num_documents))
    texts = (tokenizer.decode(document.tolist()) for document in documents)
    return compressor_bits_per_byte("".join(texts).encode())
