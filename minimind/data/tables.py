"""Text in one column of a table: Parquet files, and data sets of Hugging Face; streamed, one row group at a time."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimind.data.config import HuggingFaceConfig, ParquetConfig
from minimind.data.corpus import Block, Document, is_held_out
from minimind.data.named_files import files_made_of, named_files
from minimind.utils.errors import UserError, in_brief
from minimind.utils.extras import missing_extra
from minimind.utils.paths import find_existing

if TYPE_CHECKING:
    import pyarrow

ROWS = 256  # read at a time


class ParquetCorpus:
    """Held out by content, or by file where files are named for it."""

    def __init__(self, cfg: ParquetConfig) -> None:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise missing_extra("parquet", "For data=parquet") from None
        self.field = cfg.text_field
        self.files = named_files(cfg.files, cfg.validation_files)
        self.size = self.files.size

    def made_of(self) -> Any:
        return self.files.made_of()

    def blocks(self) -> Iterator[Block]:
        for file in self.files.names:
            yield from self._blocks_of(file)

    def documents(self, block: Block) -> Iterator[Document]:
        return _documents(block, self.files.held_out(block.file))

    def _blocks_of(self, file: Path) -> Iterator[Block]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                _check_column(table.schema_arrow, self.field, str(file))
                bytes_a_row = file.stat().st_size / max(1, table.metadata.num_rows)
                first = 0
                for rows in table.iter_batches(ROWS, columns=[self.field]):
                    records = _utf8(rows.column(0), str(file), first)
                    yield Block(str(file), first, records, round(len(records) * bytes_a_row))
                    first += len(records)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{file} must be a whole Parquet file, but: {in_brief(error)}.") from None


class HuggingFaceCorpus:
    """Held out by content. A folder is known by its files, a data set of the hub by its revision."""

    size = None

    def __init__(self, cfg: HuggingFaceConfig) -> None:
        try:
            import datasets  # noqa: F401
        except ImportError:
            raise missing_extra("huggingface", "For data=huggingface") from None
        self.cfg = cfg
        self.folder = find_existing(cfg.dataset, "data.dataset") if _looks_local(cfg.dataset) else None
        self.revision = None if self.folder else _revision(cfg)

    def made_of(self) -> Any:
        if self.folder is None:
            return self.revision
        return files_made_of(sorted(path for path in self.folder.rglob("*") if path.is_file()))

    def blocks(self) -> Iterator[Block]:
        import pyarrow

        where = f"{self.cfg.dataset}, split {self.cfg.split}"
        first = 0
        for rows in self._rows():
            if first == 0:
                _check_column(rows.schema, self.field, where)
            column = rows.column(self.field)
            chunks = column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column]
            records = [record for chunk in chunks for record in _utf8(chunk, where, first)]
            yield Block(where, first, records, sum(map(len, records)))
            first += len(records)

    def documents(self, block: Block) -> Iterator[Document]:
        return _documents(block, None)

    @property
    def field(self) -> str:
        return self.cfg.text_field

    def _rows(self) -> Iterator[Any]:
        """Raises: UserError, if what the data set is made of cannot be read."""
        import datasets
        import pyarrow

        rows = self._open().with_format("arrow").iter(ROWS)
        try:
            yield from rows
        except (pyarrow.ArrowException, datasets.exceptions.DatasetsError, ValueError, OSError) as error:
            raise UserError(f"{self.cfg.dataset} must be readable to its end, but: {in_brief(error)}.") from None

    def _open(self) -> Any:
        """The split as datasets streams it.

        Raises:
            UserError: there is no such data set, configuration or split.
        """
        import datasets

        cfg, folder = self.cfg, self.folder
        try:
            if folder is not None and ((folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()):
                stored = datasets.load_from_disk(str(folder))  # made by save_to_disk
                if not isinstance(stored, dict):
                    stored = {str(stored.split or cfg.split): stored}
                return stored[cfg.split].to_iterable_dataset()
            path = cfg.dataset if folder is None else str(folder)
            return datasets.load_dataset(path, cfg.config, split=cfg.split, revision=self.revision, streaming=True)
        except (ValueError, LookupError, TypeError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
            raise UserError(  # RuntimeError: a script in place of data, which is never run
                f"data.dataset must be a data set with the split {cfg.split}, but {cfg.dataset} is not: "
                f"{in_brief(error)}."
            ) from None


def _looks_local(name: str) -> bool:
    """A name on the hub has at most one slash, and no folder of that name is here."""
    return Path(name).expanduser().is_dir() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def _revision(cfg: HuggingFaceConfig) -> str:
    """The commit that `revision` means now."""
    if cfg.revision and re.fullmatch(r"[0-9a-f]{40}", cfg.revision):
        return cfg.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(cfg.dataset, revision=cfg.revision, timeout=20).sha)
    except Exception as error:  # no network, no such name, no permission: the library has a dozen classes for it
        raise UserError(
            f"data.dataset must be a folder or on the hub, but {cfg.dataset} was not found: {in_brief(error)}. "
            "Without a network, name a folder, or a commit already in the library's cache with data.revision=…"
        ) from None


def _check_column(schema: "pyarrow.Schema", name: str, where: str) -> None:
    from pyarrow import types

    if name not in schema.names:
        raise UserError(
            f"{where} must have the column {name}, but has {', '.join(schema.names)}; "
            "name another with data.text_field=…"
        )
    kind = schema.field(name).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise UserError(f"{where}: the column {name} must be text, but is {kind}; name another with data.text_field=…")


def _utf8(column: "pyarrow.Array", where: str, first: int) -> list[bytes]:
    import pyarrow

    if column.null_count:
        row = first + column.is_null().to_pylist().index(True)
        raise UserError(f"{where}, row {row}: must have text, but is empty (null); drop such rows.")
    return column.cast(pyarrow.large_string()).cast(pyarrow.large_binary()).to_pylist()


def _documents(block: Block, held_out: bool | None) -> Iterator[Document]:
    for raw in block.records:
        text = raw.decode("utf-8")
        yield Document(text, is_held_out(text) if held_out is None else held_out)
