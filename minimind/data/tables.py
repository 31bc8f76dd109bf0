"""Tabular corpora: Parquet files and Hugging Face datasets, streamed in groups of rows.

A raw record is the text of a row; with `prompt_field` each row has two records, the prompt and then the text.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimind.data.config import HuggingFaceConfig, ParquetConfig
from minimind.data.corpus import Document, RawBlock, make_document
from minimind.data.named_files import file_stats, named_files
from minimind.utils.errors import UserError, in_brief, missing_extra
from minimind.utils.paths import find_existing

if TYPE_CHECKING:
    import pyarrow

ROWS = 256  # per read
TableConfig = ParquetConfig | HuggingFaceConfig


class ParquetCorpus:
    """Rows of Parquet files; held out by content, or by file if validation files are named."""

    def __init__(self, cfg: ParquetConfig) -> None:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise missing_extra("parquet", "For data=parquet") from None
        self.cfg = cfg
        self.files = named_files(cfg.files, cfg.validation_files)
        self.size = self.files.size

    def cache_key(self) -> Any:
        return self.files.cache_key()

    def blocks(self) -> Iterator[RawBlock]:
        for file in self.files.names:
            yield from self._blocks_of(file)

    def documents(self, block: RawBlock) -> Iterator[Document]:
        return _documents(block, self.cfg, self.files.held_out(block.file))

    def _blocks_of(self, file: Path) -> Iterator[RawBlock]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                _check_columns(table.schema_arrow, self.cfg, str(file))
                bytes_per_row = file.stat().st_size / max(1, table.metadata.num_rows)
                first = 0
                for rows in table.iter_batches(ROWS, columns=list(_columns(self.cfg).values())):
                    records = _records(rows, self.cfg, str(file), first)
                    yield RawBlock(str(file), first, records, round(rows.num_rows * bytes_per_row))
                    first += rows.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{file} must be a complete Parquet file, but reading it failed: {in_brief(error)}."
            ) from None


class HuggingFaceCorpus:
    """Rows of a dataset, held out by content; the cache key is a folder's list of files, or a hub dataset's commit."""

    size = None

    def __init__(self, cfg: HuggingFaceConfig) -> None:
        try:
            import datasets  # noqa: F401
        except ImportError:
            raise missing_extra("huggingface", "For data=huggingface") from None
        self.cfg = cfg
        self.folder = find_existing(cfg.dataset, "data.dataset") if _looks_local(cfg.dataset) else None
        self.revision = None if self.folder else _revision(cfg)

    def cache_key(self) -> Any:
        if self.folder is None:
            return self.revision
        return file_stats(sorted(path for path in self.folder.rglob("*") if path.is_file()))

    def blocks(self) -> Iterator[RawBlock]:
        where = f"{self.cfg.dataset}, split {self.cfg.split}"
        first = 0
        for rows in self._rows():
            if first == 0:
                _check_columns(rows.schema, self.cfg, where)
            records = _records(rows, self.cfg, where, first)
            yield RawBlock(where, first, records, sum(map(len, records)))
            first += rows.num_rows

    def documents(self, block: RawBlock) -> Iterator[Document]:
        return _documents(block, self.cfg, None)

    def _rows(self) -> Iterator[Any]:
        """Raises: UserError, if the dataset cannot be read."""
        import datasets
        import pyarrow

        rows = self._open().with_format("arrow").iter(ROWS)
        try:
            yield from rows
        except (pyarrow.ArrowException, datasets.exceptions.DatasetsError, ValueError, OSError) as error:
            raise UserError(
                f"{self.cfg.dataset} must be a complete dataset, but reading it failed: {in_brief(error)}."
            ) from None

    def _open(self) -> Any:
        """Open the split as a streaming dataset.

        Raises:
            UserError: there is no such dataset, configuration or split.
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
            raise UserError(  # RuntimeError: the dataset is a script, which is never run
                f"data.dataset must be a dataset with the split {cfg.split}, but {cfg.dataset} is not: "
                f"{in_brief(error)}."
            ) from None


def _looks_local(name: str) -> bool:
    """Whether the name is a folder: names on the hub have at most one slash, and existing folders take precedence."""
    return Path(name).expanduser().is_dir() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def _revision(cfg: HuggingFaceConfig) -> str:
    """Commit that `revision` currently refers to."""
    if cfg.revision and re.fullmatch(r"[0-9a-f]{40}", cfg.revision):
        return cfg.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(cfg.dataset, revision=cfg.revision, timeout=20).sha)
    except Exception as error:  # no network, no such name, no permission: the library raises a dozen classes
        raise UserError(
            f"data.dataset must be a folder or on the hub, but {cfg.dataset} was not found: {in_brief(error)}. "
            "When offline, name a folder, or a commit in the library's cache with data.revision=…"
        ) from None


def _columns(cfg: TableConfig) -> dict[str, str]:
    """Option → column name, in the order of a row's records."""
    prompt = {} if cfg.prompt_field is None else {"prompt_field": cfg.prompt_field}
    return {**prompt, "text_field": cfg.text_field}


def _check_columns(schema: "pyarrow.Schema", cfg: TableConfig, where: str) -> None:
    from pyarrow import types

    for option, name in _columns(cfg).items():
        remedy = f"select another with data.{option}=…"
        if name not in schema.names:
            raise UserError(f"{where} must have the column {name}, but has {', '.join(schema.names)}; {remedy}")
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
            raise UserError(f"{where}: the column {name} must be text, but is {kind}; {remedy}")


def _records(rows: "pyarrow.RecordBatch | pyarrow.Table", cfg: TableConfig, where: str, first: int) -> list[bytes]:
    """Records of the rows in order; `first` is the number of the first row."""
    columns = [_utf8(rows.column(name), name, where, first) for name in _columns(cfg).values()]
    return [record for row in zip(*columns, strict=True) for record in row]


def _utf8(column: "pyarrow.Array | pyarrow.ChunkedArray", name: str, where: str, first: int) -> list[bytes]:
    import pyarrow

    if column.null_count:
        row = first + column.is_null().to_pylist().index(True)
        raise UserError(f"{where}, row {row}: must have text, but column {name} is null; drop such rows.")
    return column.cast(pyarrow.large_string()).cast(pyarrow.large_binary()).to_pylist()


def _documents(block: RawBlock, cfg: TableConfig, held_out: bool | None) -> Iterator[Document]:
    texts = [raw.decode("utf-8") for raw in block.records]
    has_prompts = cfg.prompt_field is not None
    prompts = texts[::2] if has_prompts else [None] * len(texts)
    for prompt, text in zip(prompts, texts[1::2] if has_prompts else texts, strict=True):
        yield make_document(text, prompt, held_out)
