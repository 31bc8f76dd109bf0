"""How fast prepared tokens are loaded and text is prepared. Ratios are of interleaved measurements in one run.

    python benchmarks/data.py [--rounds 7] [--only load_warm seek] [--run runs/<run>] [--tiny]

Loading is in one process without workers: batches in the compact form sent to the device, and widened there (here: on
the CPU) to the model's input. "Cold" drops the shards from the page cache first. `--run` reads the data wait from that
run's metrics.jsonl. Preparing reads JSONL made from the standard library's source. The comparison with litdata needs
the extra `benchmarks`. The last line is JSON, with null for what could not be measured on this machine.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import data_inputs
import numpy as np
from data_inputs import LENGTH, DataBench, tree_mb
from spread import extremes

Result = dict[str, Any] | None
BATCH_SIZES = (4, 64)
TARGETS = {  # from issue 4
    "load_warm": ">= 25 Mtok/s", "load_cold": ">= 5 Mtok/s", "seek": "< 1 ms", "data_wait": "< 0.005",
    "beside_litdata": ">= 3", "prepare_over_tokenizers": ">= 0.9", "prepare_two_over_one": ">= 1.7",
    "prepare_memory": "<= 600 MB",
}  # fmt: skip


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read(batches: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(batches)


def rates(bench: DataBench, batch_size: int, *, widened: bool = False, **options: Any) -> list[float]:
    """Million tokens per second in each round, with the shards mapped and in the page cache."""
    loader, count = bench.loader(batch_size, **options), bench.batches(batch_size)
    compact = (examples for (examples,) in loader)
    batches = (examples.widen() for examples in compact) if widened else compact
    read(batches, count)  # warm-up: maps the pages
    return [count * batch_size * LENGTH / seconds(lambda: read(batches, count)) / 1e6 for _ in range(bench.rounds)]


def load_warm(bench: DataBench) -> Result:
    result: dict[str, Any] = {}
    for batch_size in BATCH_SIZES:
        result[f"rows{batch_size}"] = extremes(rates(bench, batch_size))
        result[f"rows{batch_size}_widened"] = extremes(rates(bench, batch_size, widened=True))
        result[f"rows{batch_size}_document_mask"] = extremes(rates(bench, batch_size, document_mask=True))
    result["rows64_padded"] = extremes(rates(bench, 64, pad=True))  # positions, padding included
    return {
        "value": min((result[f"rows{batch_size}"] for batch_size in BATCH_SIZES), key=lambda rate: rate[1]),
        **result,
    }


def drop_from_page_cache(folder: Path) -> None:
    for path in folder.glob("*.bin"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_fraction(path: Path) -> float | None:
    """Fraction of a file that is in the page cache, by util-linux' fincore; None if it is not installed."""
    if not shutil.which("fincore"):
        return None
    done = subprocess.run(["fincore", "-nbo", "RES", str(path)], capture_output=True, text=True)
    return int(done.stdout.split()[0]) / path.stat().st_size if done.returncode == 0 else None


def load_cold(bench: DataBench) -> Result:
    """Each round in its own process, because mapped pages cannot be dropped."""
    if not hasattr(os, "posix_fadvise"):
        return None
    bench.stream()
    result: dict[str, Any] = {}
    for batch_size in BATCH_SIZES:
        values, resident = [], []
        for _ in range(bench.rounds):
            drop_from_page_cache(bench.folder / "tokens")
            resident.append(resident_fraction(bench.folder / "tokens" / "shard_00000.bin"))
            values.append(float(run_job("cold", bench, str(batch_size)).split()[-1]))
        result[f"rows{batch_size}"] = extremes(values)
        result["resident_before"] = None if None in resident else max(resident)  # type: ignore[type-var]
    return {
        "value": min((result[f"rows{batch_size}"] for batch_size in BATCH_SIZES), key=lambda rate: rate[1]),
        **result,
    }


def print_cold(bench: DataBench, batch_size: str) -> None:
    from minimind.data import shards

    shards.TokenStream.verify_shard = lambda self, shard: self._unverified.discard(shard)  # type: ignore[method-assign]
    loader, count = bench.loader(int(batch_size)), max(1, bench.batches(int(batch_size)) // 4)
    batches = iter(loader)
    print(count * int(batch_size) * LENGTH / seconds(lambda: read(batches, count)) / 1e6)


def run_job(job: str, bench: DataBench, *arguments: str) -> str:
    command = [sys.executable, __file__, "--folder", str(bench.folder), *(["--tiny"] if bench.tiny else [])]
    done = subprocess.run([*command, "--job", job, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def hashing(bench: DataBench) -> Result:
    """Speed of hashing a shard, as at its first use, in GB/s."""
    import hashlib

    bench.stream()
    content = (bench.folder / "tokens" / "shard_00000.bin").read_bytes()
    times = [seconds(lambda: hashlib.sha256(content)) for _ in range(bench.rounds)]
    return {"value": extremes([len(content) / one / 1e9 for one in times])}


def seek(bench: DataBench) -> Result:
    """Milliseconds to seek to a random position within 1,000 epochs and load its batch, of 4 and 64 sequences."""
    result: dict[str, Any] = {}
    rng = random.Random(2)
    for batch_size in BATCH_SIZES:
        loader, times = bench.loader(batch_size), []
        last = 1000 * loader.mixture.sources[0].examples.num_examples // batch_size
        for _ in range(20 if bench.tiny else 300):
            loader.load_state_dict({"step": rng.randrange(last)})
            loader._planned = range(0)  # as after a restart
            times.append(1000 * seconds(lambda one=loader: next(iter(one))))
        result[f"rows{batch_size}"] = extremes(times)
        result[f"rows{batch_size}_p99"] = float(f"{sorted(times)[int(0.99 * len(times))]:.4g}")
    return {
        "value": max((result[f"rows{batch_size}"] for batch_size in BATCH_SIZES), key=lambda times: times[1]),
        **result,
    }


def data_wait(bench: DataBench) -> Result:
    """Data wait of the run given by `--run`: as a fraction of its training time, and per log point."""
    if bench.run is None:
        return None
    rows = [json.loads(line) for line in (bench.run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "train/data_wait_fraction" in row]
    spans = np.diff([0.0, *(row["elapsed_s"] for row in rows)])
    waits = [row["train/data_wait_fraction"] for row in rows]
    return {"value": [float(f"{np.average(waits, weights=spans):.4g}")] * 3, "log_points": extremes(waits)}


def beside_litdata(bench: DataBench) -> Result:
    """Our speed ÷ that of litdata's StreamingDataset with TokensLoader, shuffled, in a DataLoader without workers."""
    if importlib.util.find_spec("litdata") is None:
        return None
    from torch.utils.data import DataLoader

    folder, batch_size = bench.folder / "litdata", 64
    if not folder.is_dir():
        data_inputs.write_litdata(bench, folder)
    import litdata

    dataset = litdata.StreamingDataset(
        str(folder), item_loader=litdata.TokensLoader(block_size=LENGTH + 1), shuffle=True, drop_last=True, seed=1
    )
    theirs = iter(endless(DataLoader(dataset, batch_size=batch_size, num_workers=0)))
    ours, count = iter(bench.loader(batch_size)), max(1, bench.batches(batch_size) // 4)
    first = next(theirs)
    if tuple(first.shape) != (batch_size, LENGTH + 1):
        raise AssertionError(
            f"litdata must give batches of {batch_size} × {LENGTH + 1} tokens, but gave {first.shape}."
        )
    for side in (ours, theirs):
        read(side, count)
    times = []
    for _ in range(bench.rounds):
        a, b, c, d = (seconds(lambda side=side: read(side, count)) for side in (ours, theirs, theirs, ours))
        times.append(((a + d) / 2, (b + c) / 2))
    tokens = count * batch_size * LENGTH / 1e6
    return {
        "value": extremes([b / a for a, b in times]),
        "ours_mtok_s": extremes([tokens / a for a, _ in times]),
        "theirs_mtok_s": extremes([tokens / b for _, b in times]),
        "litdata": importlib.metadata.version("litdata"),
    }


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _prepared_seconds(bench: DataBench, path: Path, processes: int) -> float:
    from minimind.data.config import JsonlConfig
    from minimind.data.prepare import prepare_with

    cfg = JsonlConfig(files=[str(path)], prepare_processes=processes)
    with tempfile.TemporaryDirectory(dir=bench.folder) as cache:
        return seconds(lambda: prepare_with(cfg, bench.tokenizer(), Path(cache)))


def prepare_over_tokenizers(bench: DataBench) -> Result:
    """Speed of preparing end to end on one thread ÷ that of `encode_batch` alone on the same texts."""
    return json.loads(run_job("one_thread", bench).splitlines()[-1])


def print_one_thread(bench: DataBench) -> None:
    from minimind.tokenizer.bpe import BPE

    path, tokenizer = bench.jsonl(bench.corpus_mb), BPE.load(bench.tokenizer()).tokenizer
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]

    def alone() -> None:
        for start in range(0, len(texts), 1000):
            tokenizer.encode_batch(texts[start : start + 1000])

    times = []
    for _ in range(bench.rounds):
        a = _prepared_seconds(bench, path, 1)
        b = seconds(alone)
        c = seconds(alone)
        d = _prepared_seconds(bench, path, 1)
        times.append(((a + d) / 2, (b + c) / 2))
    megabytes = path.stat().st_size / 1e6
    print(json.dumps({
        "value": extremes([b / a for a, b in times]), "prepare_mb_s": extremes([megabytes / a for a, _ in times]),
        "encode_batch_mb_s": extremes([megabytes / b for _, b in times]),
    }))  # fmt: skip


def prepare_two_over_one(bench: DataBench) -> Result:
    path = bench.jsonl(3 * bench.corpus_mb)
    pairs = [(_prepared_seconds(bench, path, 1), _prepared_seconds(bench, path, 2)) for _ in range(bench.rounds)]
    return {"value": extremes([one / two for one, two in pairs]), "one_s": extremes([one for one, _ in pairs])}


def prepare_memory(bench: DataBench) -> Result:
    """Peak memory of the process tree in MB, sampled every 20 ms."""
    path = bench.jsonl(bench.memory_mb)
    bench.tokenizer()
    command = [sys.executable, __file__, "--folder", str(bench.folder), *(["--tiny"] if bench.tiny else [])]
    child = subprocess.Popen([*command, "--job", "prepare", str(path)], stdout=subprocess.DEVNULL)
    peaks, done = {"Pss": 0.0, "Pss_Anon": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for field in peaks:
                peaks[field] = max(peaks[field], tree_mb(child.pid, field))

    watcher = threading.Thread(target=watch)
    watcher.start()
    elapsed = seconds(child.wait)
    done.set()
    watcher.join()
    if child.returncode:
        raise RuntimeError("The preparing process failed; its error is above.")
    value = [round(peaks["Pss"], 1)] * 3  # includes mapped files, mostly the libraries
    return {"value": value, "without_files_mb": round(peaks["Pss_Anon"], 1), "input_mb": path.stat().st_size / 1e6,
            "seconds": round(elapsed, 1)}  # fmt: skip


def print_prepare(bench: DataBench, path: str) -> None:
    print(_prepared_seconds(bench, Path(path), os.cpu_count() or 1))


MEASURES: dict[str, Callable[[DataBench], Result]] = {
    measure.__name__: measure
    for measure in (
        load_warm, load_cold, hashing, seek, data_wait, beside_litdata, prepare_over_tokenizers,
        prepare_two_over_one, prepare_memory,
    )
}  # fmt: skip
JOBS: dict[str, Callable[..., None]] = {"cold": print_cold, "one_thread": print_one_thread, "prepare": print_prepare}


def line(name: str, result: Result) -> str:
    if result is None:
        return f"{name:24} not measured"
    low, median, high = result["value"]
    rest = [f"{key} {value[1] if isinstance(value, list) else value}" for key, value in result.items()]
    target = f"   target {TARGETS[name]}" if name in TARGETS else ""
    return f"{name:24} {median:9.4g}  ({low:.4g} – {high:.4g}){target:24} {', '.join(rest[1:])}"


def machine(bench: DataBench) -> dict[str, Any]:
    names = ("torch", "numpy", "tokenizers", "minimind")
    return {
        "machine": platform.platform(), "cores": os.cpu_count(), "tokens": bench.num_tokens, "length": LENGTH,
        "rounds": bench.rounds, "tiny": bench.tiny,
        "versions": {name: importlib.metadata.version(name) for name in names},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="sizes too small to measure anything, for tests")
    parser.add_argument("--only", nargs="+", default=list(MEASURES), choices=MEASURES, metavar="NAME")
    parser.add_argument("--run", type=Path, help="run folder to read the data wait from")
    parser.add_argument("--folder", type=Path, help="folder for the input files; default: a temporary one")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() if arguments.folder is None else contextlib.nullcontext(arguments.folder) as f:
        bench = DataBench(arguments, Path(f))
        bench.folder.mkdir(parents=True, exist_ok=True)
        if arguments.job:
            with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                JOBS[arguments.job[0]](bench, *arguments.job[1:])
            return
        results: dict[str, Result] = dict.fromkeys(MEASURES)
        for name in arguments.only:
            results[name] = MEASURES[name](bench)
            print(line(name, results[name]), flush=True)
    print(json.dumps({"figures": results, **machine(bench)}))


if __name__ == "__main__":
    main()
