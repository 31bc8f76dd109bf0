"""Where the text comes from, and how it is cut into batches."""

from dataclasses import dataclass, field
from enum import Enum

from minimind.utils.errors import ConfigError


class Packing(Enum):
    stream = "stream"  # windows of all documents one after another; every token is a target, nothing is padding
    pad = "pad"  # one document a row, cut or padded


class Verify(Enum):
    first_use = "first_use"  # the hash of a shard is compared when it is first read
    full = "full"  # of all shards, before training


@dataclass
class DataConfig:
    kind: str = "???"  # which corpus; set by each YAML of the group
    sequence_length: int = 512  # tokens of a row that are predicted
    packing: Packing = Packing.stream
    document_mask: bool = False  # no token sees another document of its window, and positions restart
    verify: Verify = Verify.first_use
    validation_files: list[str] = field(default_factory=list)  # none named: one file (or record) in twenty
    num_workers: int = 0  # processes that read ahead

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)


@dataclass
class StdlibConfig(DataConfig):
    """The source code of the running Python's standard library."""

    kind: str = "stdlib"
    include_tests: bool = False


@dataclass
class TextConfig(DataConfig):
    """Files of UTF-8 text, or globs of them."""

    kind: str = "text"
    files: list[str] = field(default_factory=list)
    separator: str | None = None  # where a file is cut into documents; None: blocks of whole lines
    block_kb: int = 16  # size of such a block; a smaller file stays whole


@dataclass
class JsonlConfig(DataConfig):
    """Files (or globs) with one JSON object a line."""

    kind: str = "jsonl"
    files: list[str] = field(default_factory=list)
    text_field: str = "text"


CORPUS_CONFIGS: dict[str, type[DataConfig]] = {"stdlib": StdlibConfig, "text": TextConfig, "jsonl": JsonlConfig}


def problems(cfg: DataConfig) -> list[str]:
    found = []
    if cfg.kind not in CORPUS_CONFIGS:
        found.append(f"`data.kind` must be one of {', '.join(CORPUS_CONFIGS)}, but is {cfg.kind}.")
    if cfg.sequence_length < 1:
        found.append(f"`data.sequence_length` must be at least 1, but is {cfg.sequence_length}.")
    if cfg.document_mask and cfg.packing is Packing.pad:
        found.append("`data.document_mask` must be false with data.packing=pad: a row holds one document already.")
    if cfg.num_workers < 0:
        found.append(f"`data.num_workers` must be at least 0, but is {cfg.num_workers}.")
    if isinstance(cfg, TextConfig | JsonlConfig) and not cfg.files:
        found.append(f"`data.files` must name the text of data={cfg.kind}, such as data.files='[my/*.txt]'.")
    if isinstance(cfg, TextConfig) and cfg.separator == "":
        found.append("`data.separator` must not be empty; leave it out to cut at whole lines.")
    if isinstance(cfg, TextConfig) and cfg.block_kb < 1:
        found.append(f"`data.block_kb` must be at least 1, but is {cfg.block_kb}.")
    return found
