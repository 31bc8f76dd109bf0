"""Inputs of benchmarks/data.py: random tokens, also in litdata's format, and text; memory of a process tree."""

import argparse
import contextlib
import json
import random
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np

from minimind.data.loader import TrainLoader
from minimind.data.mixture import Mixture, Source
from minimind.data.packing import DocumentPacking, WindowPacking
from minimind.data.shards import ShardWriter, TokenStream, token_dtype
from minimind.tokenizer.bpe import BPE

LENGTH = 512


class DataBench:
    """Sizes, the number of rounds, and inputs shared by several measurements."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.tiny, self.rounds, self.run, self.folder = arguments.tiny, arguments.rounds, arguments.run, folder
        self.num_tokens = 200_000 if self.tiny else 200_000_000
        self.corpus_mb = 0.1 if self.tiny else 20
        self.memory_mb = 0.2 if self.tiny else 1000

    def stream(self) -> TokenStream:
        """Random tokens, in documents of 30 to 2,000 tokens and shards of 2^25."""
        target = self.folder / "tokens"
        if not target.is_dir():
            rng = np.random.default_rng(0)
            writer = ShardWriter(target, token_dtype(6400), shard_tokens=2**25)
            remaining = self.num_tokens
            while remaining > 0:
                size = min(remaining, int(rng.integers(30, 2000)))
                writer.add(rng.integers(1, 6400, size, dtype=np.uint16), text_bytes=4 * size)
                remaining -= size
            writer.close("hash")
        stream = TokenStream(target)
        for shard in range(len(stream.shards)):
            stream.verify_shard(shard)  # once per process; timed separately in `hashing`
        return stream

    def loader(self, batch_size: int, **options: Any) -> TrainLoader:
        pad = options.pop("pad", False)
        stream = self.stream()
        packing = DocumentPacking(stream, LENGTH) if pad else WindowPacking(stream, LENGTH, **options)
        mixture = Mixture([Source("tokens", 1.0, packing)], seed=1)
        return TrainLoader(mixture, batch_examples=batch_size, micro_batch=batch_size, num_steps=10**9)

    def batches(self, batch_size: int) -> int:
        """Number of batches per measurement, enough for exact timing."""
        return max(1, (2**17 if self.tiny else 2**24) // (batch_size * LENGTH))

    def jsonl(self, megabytes: float) -> Path:
        """Real text with variations: files of the standard library, with lines dropped at random."""
        path = self.folder / f"{megabytes}.jsonl"
        if not path.is_file():
            rng, texts = random.Random(1), library_texts()
            with path.open("w", encoding="utf-8") as file:
                while file.tell() < megabytes * 1_000_000:
                    lines = rng.choice(texts).splitlines(keepends=True)
                    text = "".join(line for line in lines if rng.random() < 0.95)
                    for start in range(0, len(text), 4000):
                        file.write(json.dumps({"text": text[start : start + 4000]}, ensure_ascii=False) + "\n")
        return path

    def tokenizer(self) -> Path:
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            BPE.train(library_texts()[: 5 if self.tiny else 200], 300 if self.tiny else 6400).save(path)
        return path


def library_texts() -> list[str]:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


def write_litdata(bench: DataBench, folder: Path) -> None:
    """Write the same tokens with litdata's own writer."""
    import torch
    from litdata.streaming.item_loader import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    stream = bench.stream()
    writer = BinaryWriter(str(folder), chunk_bytes="64MB", item_loader=TokensLoader(block_size=LENGTH + 1))
    size = 2**20
    for number, start in enumerate(range(0, len(stream), size)):
        writer.add_item(number, torch.from_numpy(stream.read(start, start + size).copy()))
    writer.done()
    writer.merge(1)


def tree_mb(pid: int, field: str) -> float:
    """Memory of a process and its descendants; with PSS fields, shared pages count once. Linux only."""
    total = 0
    with contextlib.suppress(OSError):  # the process may have just ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{field}:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += int(tree_mb(int(child), field) * 1e6)
    return total / 1e6
