"""After a kill, a full disk or invalid input, nothing incomplete looks complete, and no finished chunk is redone."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minimind.data import prepare as module
from minimind.data.config import DataConfig, JsonlConfig
from minimind.data.prepare import VALIDATION, PreparedData, prepare_with
from minimind.data.worker import Encoder, EncodingProcess
from minimind.tokenizer.bpe import BPE
from minimind.utils.errors import UserError

CHUNK = 200_000  # below the size of a block, so that each block is a chunk


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    BPE.train(["the cat sat on a mat " * 20], 280).save(path)
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Records for five chunks, the last one short."""
    path = tmp_path / "a.jsonl"
    texts = (f"{i} " + "the cat sat on a mat " * (30 + i % 40) for i in range(1080))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK)


def files_of(prepared: PreparedData) -> dict[str, bytes]:
    (source,) = prepared.sources
    return {str(p.relative_to(source.folder)): p.read_bytes() for p in source.folder.rglob("*") if p.is_file()}


def partial_folder(cache: Path) -> Path | None:
    return next(cache.glob("shards/.*.partial"), None)


def complete_folders(cache: Path) -> list[Path]:
    return [path for path in cache.glob("shards/*") if path.is_dir() and not path.name.startswith(".")]


def record_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that receives the chunk number of each batch encoded from now on."""
    chunks: list[int] = []
    real = module.encode_batches

    def recording(encoder, batches, processes):
        return real(encoder, (chunks.append(batch.chunk) or batch for batch in batches), processes)

    monkeypatch.setattr(module, "encode_batches", recording)
    return chunks


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_preparation_resumes_after_the_last_finished_chunk(
    lines: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_number: int
) -> None:
    cache = tmp_path / "cache"
    program = (  # the third chunk's record is never written: the program waits there for the signal
        "import sys, time; from pathlib import Path; from minimind.data import prepare as p\n"
        "from minimind.data.config import JsonlConfig\n"
        f"p.CHUNK_BYTES = {CHUNK}; real = p._finish_chunk\n"
        "p._finish_chunk = lambda folder, chunk, *rest: time.sleep(60) if chunk == 2 else real(folder, chunk, *rest)\n"
        "p.prepare_with(JsonlConfig(files=[sys.argv[1]], prepare_processes=2), Path(sys.argv[2]), Path(sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", program, str(lines), str(tokenizer), str(cache)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(list(cache.glob("shards/.*.partial/chunk_*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = children_of(process.pid)
        process.send_signal(signal_number)
        process.wait(timeout=30)
        assert process.stderr is not None
        assert process.stderr.read().count("Traceback") == (signal_number == signal.SIGINT)  # the parent's only
    assert len(workers) == 2
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(pid) for pid in workers)
    assert not complete_folders(cache)

    encoded = record_chunks(monkeypatch)
    data = JsonlConfig(files=[str(lines)])
    resumed = prepare_with(data, tokenizer, cache)
    assert set(encoded) == {2, 3, 4}
    assert partial_folder(cache) is None
    encoded.clear()
    assert files_of(prepare_with(data, tokenizer, tmp_path / "uninterrupted")) == files_of(resumed)
    assert set(encoded) == {0, 1, 2, 3, 4}


def test_interrupted_preparation_of_prompts_keeps_their_targets(
    lines: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second chunk has prompts, in the others they are empty; the third is interrupted."""
    records = [json.loads(line)["text"] for line in lines.read_text().splitlines()]
    with lines.open("w") as file:
        for number, text in enumerate(records):
            prompt = "the cat " if 250 < number < 450 else ""
            file.write(json.dumps({"prompt": prompt, "text": text}) + "\n")
    data, cache = JsonlConfig(files=[str(lines)], prompt_field="prompt"), tmp_path / "cache"
    real = module._finish_chunk

    def stopped(folder: Path, chunk: int, writers: dict) -> None:
        if chunk == 2:
            raise KeyboardInterrupt
        real(folder, chunk, writers)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_finish_chunk", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare_with(data, tokenizer, cache)
    encoded = record_chunks(monkeypatch)
    resumed = prepare_with(data, tokenizer, cache)
    assert set(encoded) == {2, 3, 4}
    assert files_of(prepare_with(data, tokenizer, tmp_path / "uninterrupted")) == files_of(resumed)
    has_bits = [shard.targets is not None for shard in resumed.streams("train")[0].shards]
    assert True in has_bits[:2]
    assert has_bits[-1] is False


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_finished_chunks_but_no_folder_that_looks_complete(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file size limit simulates the full disk; a later chunk with shorter tokens exceeds it."""
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    records = [f"{i} " + "the cat sat on a mat " * 50 for i in range(500)] + [f"{i} " + "z" * 1000 for i in range(500)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in records))
    data = JsonlConfig(files=[str(path)])
    with (
        file_size_limit(350_000),
        pytest.raises(UserError, match=r"cache/shards must have room .* File too large.*again"),
    ):
        prepare_with(data, tokenizer, cache)
    assert not complete_folders(cache)
    left = partial_folder(cache)
    assert left is not None
    assert len(list(left.glob("chunk_*.json"))) >= 1
    assert not list(left.rglob("*manifest.json"))
    assert not list(left.rglob(".*.tmp"))
    encoded = record_chunks(monkeypatch)
    resumed = prepare_with(data, tokenizer, cache)
    assert 0 not in encoded
    assert files_of(prepare_with(data, tokenizer, tmp_path / "other")) == files_of(resumed)


@pytest.mark.parametrize("processes", [1, 2])
def test_invalid_input_leaves_nothing_behind(lines: Path, tokenizer: Path, tmp_path: Path, processes: int) -> None:
    with lines.open("a") as file:
        file.write("{bad\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 1081: must be a JSON object"):
        prepare_with(JsonlConfig(files=[str(lines)], prepare_processes=processes), tokenizer, tmp_path / "cache")
    assert not complete_folders(tmp_path / "cache")
    assert partial_folder(tmp_path / "cache") is None


def test_a_killed_worker_is_reported(
    lines: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EncodingProcess.__init__

    def killed(self: EncodingProcess, encoder: Encoder) -> None:
        real(self, encoder)
        os.kill(self.process.pid, signal.SIGKILL)

    monkeypatch.setattr(EncodingProcess, "__init__", killed)
    data: DataConfig = JsonlConfig(files=[str(lines)], prepare_processes=2)
    with pytest.raises(RuntimeError, match=r"exited with code -9; .* data\.prepare_processes"):
        prepare_with(data, tokenizer, tmp_path)
    monkeypatch.undo()
    assert len(prepare_with(data, tokenizer, tmp_path).streams(VALIDATION)[0]) > 0
