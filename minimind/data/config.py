"""Data settings: where the text comes from, and how it is packed into batches."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minimind.utils.errors import ConfigError, suggestion
from minimind.utils.settings import added, added_settings


class Packing(Enum):
    stream = "stream"  # windows over all documents concatenated; no padding
    pad = "pad"  # one document per sequence, truncated or padded


class Verify(Enum):
    first_use = "first_use"  # check the hash of each shard when it is first read
    full = "full"  # check all shards before training


@dataclass
class DataConfig:
    records: ClassVar[str] = "text"  # kind of records in the corpus, which the objective must accept

    kind: str = "???"  # which corpus; set by each YAML of the group
    sequence_length: int = 512  # inputs per sequence, and as many targets
    packing: Packing = Packing.stream
    document_mask: bool = False  # attend only within each document, and restart positions there
    verify: Verify = Verify.first_use
    validation_files: list[str] = field(default_factory=list)  # empty: one file (or record) in twenty
    num_workers: int = 0  # processes that read batches ahead
    prepare_processes: int | None = None  # processes that encode text; None: all cores, unless there is little text

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
    """UTF-8 text files, or globs."""

    kind: str = "text"
    files: list[str] = field(default_factory=list)
    separator: str | None = None  # string that separates documents; None: split into blocks of whole lines
    block_kb: int = 16  # size of these blocks; a smaller file is one document


@dataclass
class JsonlConfig(DataConfig):
    """Files (or globs) with one JSON object per line; `.gz` and `.zst` files are decompressed on the fly."""

    kind: str = "jsonl"
    files: list[str] = field(default_factory=list)
    text_field: str = "text"
    prompt_field: str | None = added(None)  # a prompt that precedes the text and is not a target


@dataclass
class ParquetConfig(DataConfig):
    """Parquet files (or globs) with a text column."""

    kind: str = "parquet"
    files: list[str] = field(default_factory=list)
    text_field: str = "text"
    prompt_field: str | None = added(None)  # a prompt that precedes the text and is not a target


@dataclass
class HuggingFaceConfig(DataConfig):
    """A dataset on the Hugging Face hub or in a local folder, streamed."""

    kind: str = "huggingface"
    dataset: str = ""  # name on the hub, or a folder
    config: str | None = None  # which configuration, if the dataset has several
    split: str = "train"
    revision: str | None = None  # branch, tag or commit of a dataset on the hub; None: the latest commit
    text_field: str = "text"
    prompt_field: str | None = added(None)  # a prompt that precedes the text and is not a target


@dataclass
class MixtureConfig(DataConfig):
    """Several weighted corpora: name → {weight, kind, settings of that kind}."""

    kind: str = "mixture"
    sources: dict[str, Any] = field(default_factory=dict)

    def weighted_sources(self) -> dict[str, tuple[float, DataConfig]]:
        """Raises: ConfigError, which names every invalid setting."""
        return {name: _weighted_source(name, options) for name, options in self.sources.items()}


CORPUS_CONFIGS: dict[str, type[DataConfig]] = {
    "stdlib": StdlibConfig,
    "text": TextConfig,
    "jsonl": JsonlConfig,
    "parquet": ParquetConfig,
    "huggingface": HuggingFaceConfig,
    "mixture": MixtureConfig,
}
EXAMPLE_FILES = {"text": "my/*.txt", "jsonl": "my/*.jsonl", "parquet": "my/*.parquet"}


def problems(cfg: DataConfig) -> list[str]:
    found = []
    if cfg.kind not in CORPUS_CONFIGS:
        found.append(f"`data.kind` must be one of {', '.join(CORPUS_CONFIGS)}, but is {cfg.kind}.")
    if cfg.sequence_length < 1:
        found.append(f"`data.sequence_length` must be at least 1, but is {cfg.sequence_length}.")
    if cfg.document_mask and cfg.packing is Packing.pad:
        found.append("`data.document_mask` must be false with data.packing=pad: a sequence already holds one document.")
    if cfg.num_workers < 0:
        found.append(f"`data.num_workers` must be at least 0, but is {cfg.num_workers}.")
    if cfg.prepare_processes is not None and cfg.prepare_processes < 1:
        found.append(f"`data.prepare_processes` must be at least 1, but is {cfg.prepare_processes}.")
    return found + _source_problems(cfg)


def _source_problems(cfg: DataConfig) -> list[str]:
    found = []
    if isinstance(cfg, TextConfig | JsonlConfig | ParquetConfig) and not cfg.files:
        example = EXAMPLE_FILES[cfg.kind]
        found.append(f"`data.files` must name files for data={cfg.kind}, such as data.files='[{example}]'.")
    if isinstance(cfg, TextConfig) and cfg.separator == "":
        found.append("`data.separator` must not be empty; leave it out to split at line breaks.")
    if isinstance(cfg, TextConfig) and cfg.block_kb < 1:
        found.append(f"`data.block_kb` must be at least 1, but is {cfg.block_kb}.")
    if isinstance(cfg, JsonlConfig | ParquetConfig | HuggingFaceConfig) and cfg.prompt_field == cfg.text_field:
        found.append(f"`data.prompt_field` must differ from `data.text_field`, but both are {cfg.text_field}.")
    if isinstance(cfg, HuggingFaceConfig):
        if not cfg.dataset:
            found.append("`data.dataset` must name a folder or a dataset on the hub, such as data.dataset=my/folder.")
        if cfg.validation_files:
            found.append(
                "`data.validation_files` cannot be used with data=huggingface: one record in twenty is held out."
            )
    if isinstance(cfg, MixtureConfig):
        found += _mixture_problems(cfg)
    return found


def _mixture_problems(cfg: MixtureConfig) -> list[str]:
    found = []
    if not cfg.sources:
        found.append(
            "`data.sources` must name the corpora of data=mixture, such as "
            "data.sources='{prose: {weight: 2, kind: text, files: [my/*.txt]}, code: {kind: stdlib}}'."
        )
    if cfg.validation_files:
        found.append("`data.validation_files` must be set per source with data=mixture, such as data.sources.NAME.…")
    for name, options in cfg.sources.items():
        try:
            _weighted_source(name, options)
        except ConfigError as error:
            found += error.problems
    return found


def record_kinds(cfg: DataConfig) -> set[str]:
    """Kinds of records in the corpus, or in all sources of a mixture."""
    if isinstance(cfg, MixtureConfig):
        return {source.records for _, source in cfg.weighted_sources().values()}
    return {cfg.records}


def source_settings(config: type[DataConfig]) -> list[str]:
    """Names of the settings that select the text, without those that only affect how training reads it."""
    training_settings = {item.name for item in fields(DataConfig)} - {"kind", "validation_files"}
    return [item.name for item in fields(config) if item.name not in training_settings]


def _weighted_source(name: str, options: Any) -> tuple[float, DataConfig]:
    where = f"data.sources.{name}"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)):
        raise ConfigError([f"`{where}`: names may contain only letters, digits, - and _, as metrics use them."])
    kinds = [kind for kind in CORPUS_CONFIGS if kind != "mixture"]
    if not isinstance(options, Mapping) or options.get("kind") not in kinds:
        kind = options.get("kind") if isinstance(options, Mapping) else options
        raise ConfigError([f"`{where}.kind` must be one of {', '.join(kinds)}, but is {kind}."])
    config = CORPUS_CONFIGS[options["kind"]]
    known = [*source_settings(config), "weight"]
    found = [f"`{where}.{key}` is not a setting; {suggestion(str(key), known)}" for key in options if key not in known]
    weight = options.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        found.append(f"`{where}.weight` must be a number above 0, but is {weight}.")
    introduced = {key: value for key, value in added_settings(config).items() if key in known}  # see `added`
    values = introduced | {key: value for key, value in options.items() if key in known and key != "weight"}
    schema = OmegaConf.structured(config)
    for key, value in values.items():
        try:
            OmegaConf.update(schema, key, value)
        except OmegaConfBaseException as error:
            found.append(f"`{where}.{key}`: {str(error).splitlines()[0]}.")
    try:
        source = OmegaConf.to_object(schema)
    except ConfigError as error:
        found += [problem.replace("data.", f"{where}.") for problem in error.problems]
    if found:
        raise ConfigError(found)
    assert isinstance(source, DataConfig)
    return float(weight), source
