"""Builds the corpus that a configuration describes."""

from minimind.data.config import (
    DataConfig,
    HuggingFaceConfig,
    JsonlConfig,
    ParquetConfig,
    StdlibConfig,
    TextConfig,
)
from minimind.data.corpus import Corpus
from minimind.data.jsonl import JsonlCorpus
from minimind.data.tables import HuggingFaceCorpus, ParquetCorpus
from minimind.data.text_corpora import StdlibCorpus, TextCorpus

STDLIB_PROMPTS = ["def read_file(path", "class Stack:\n    def __init__(self", "def main():\n    parser = "]


def build_corpus(cfg: DataConfig) -> Corpus:
    """Build the corpus of one source; the sources of a mixture are built one by one.

    Raises:
        UserError: files or an optional package are missing.
    """
    if isinstance(cfg, StdlibConfig):
        return StdlibCorpus(cfg)
    if isinstance(cfg, TextConfig):
        return TextCorpus(cfg)
    if isinstance(cfg, JsonlConfig):
        return JsonlCorpus(cfg)
    if isinstance(cfg, ParquetConfig):
        return ParquetCorpus(cfg)
    if isinstance(cfg, HuggingFaceConfig):
        return HuggingFaceCorpus(cfg)
    raise TypeError(f"No corpus for {type(cfg).__name__}.")
