"""The online path against a fake W&B server on loopback: what it has stored after kills, and after a sync.

The fake server answers the few queries that wandb 0.31 makes, and stores lines at the offsets they are sent with. How
the real server handles them is not tested.
"""

import gzip
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import append_row, read_rows
from minimind.tracking.config import WandbSettings
from minimind.tracking.wandb import WandbMirror
from minimind.utils.child import python_module, search_path


class FakeServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.lines: dict[str, list[str]] = {}  # history by run
        self.ends: list[dict[str, Any]] = []  # messages without their lines
        self.requests: list[str] = []  # all requested paths

    def steps(self, run: str) -> list[int]:
        return [json.loads(line)["_step"] for line in self.lines.get(run, [])]

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "e", "name": "me"}
        if operation == "Viewer":
            no_teams: dict[str, Any] = {"edges": []}
            return {
                "viewer": {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": no_teams}
            }
        if operation == "RunResumeStatus":
            name = variables["name"]
            return {"model": {"id": "p", "name": "p", "entity": entity, "bucket": self.bucket(name)}}
        if operation == "UpsertBucket":
            bucket = {"id": "b", "name": variables["name"], "displayName": "d", "historyLineCount": 0,
                      "project": {"id": "p", "name": "p", "entity": entity}}  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": variables["name"] not in self.lines}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def bucket(self, name: str) -> dict[str, Any] | None:
        lines = self.lines.get(name)
        if lines is None:
            return None
        return {"id": "b", "name": name, "summaryMetrics": lines[-1], "displayName": "d", "logLineCount": 0,
                "historyLineCount": len(lines), "eventsLineCount": 0, "historyTail": json.dumps(lines[-1:]),
                "eventsTail": "[]", "config": "{}", "tags": [], "notes": None, "wandbConfig": '{"t": 1}'}  # fmt: skip

    def stream(self, run: str, message: dict[str, Any]) -> None:
        history = message.pop("files", None) or {}
        if (part := history.get("wandb-history.jsonl")) is not None:
            lines = self.lines.setdefault(run, [])
            lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
        self.ends.append(message)


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        self.server.requests.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        response: dict[str, Any] = {}
        if self.path == "/graphql":
            query = json.loads(body)
            response = {"data": self.server.graphql(query.get("operationName"), query.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(body))
        out = json.dumps(response).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    do_GET = do_POST = do_PUT = answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer() as fake:
        monkeypatch.setenv("WANDB_BASE_URL", fake.address)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        thread = threading.Thread(target=fake.serve_forever)
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()


@pytest.fixture
def run(small_run: Path, tmp_path: Path, scenarios: object) -> RunFolder:
    """A run without its metrics; requests `scenarios` so that their runs proceed while these tests wait."""
    copy = RunFolder(Path(shutil.copytree(small_run, tmp_path / small_run.name)))
    copy.metrics.unlink()
    copy.samples.unlink()
    copy.update_status(wandb_id="abcd1234", state="running")
    return copy


def start(run: RunFolder) -> WandbMirror:
    settings = WandbSettings()
    return WandbMirror(run, 0, **vars(settings))


def wait_for(condition) -> None:
    deadline = time.time() + 60
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)


def test_each_point_is_stored_once_after_kills_and_a_sync(
    server: FakeServer, run: RunFolder, small_run: Path, command, capfd
) -> None:
    rows = read_rows(small_run / "metrics.jsonl")
    killed = start(run)
    for row in rows[:5]:
        append_row(run.metrics, row)
    wait_for(lambda: server.steps("abcd1234"))
    assert killed.process is not None
    killed.process.kill()  # some rows may not have been sent yet
    killed.process.communicate()
    sent = server.steps("abcd1234")

    run.metrics.write_text(
        "".join(json.dumps(row) + "\n" for row in rows[:2])
    )  # a resumed run truncates its metrics to its checkpoint
    preempted = start(run)
    for row in rows[2:7]:
        append_row(run.metrics, row)
    preempted.finish(75)
    assert server.steps("abcd1234") == [row["step"] for row in rows[:7]]
    assert set(sent) <= set(server.steps("abcd1234"))
    assert any(end.get("preempting") for end in server.ends)
    assert server.ends[-1]["exitcode"] == 75

    last = start(run)
    for row in rows[7:]:
        append_row(run.metrics, row)
    shutil.copy(small_run / "samples.jsonl", run.samples)
    run.update_status(state="finished")
    last.finish(0)
    assert capfd.readouterr().err == ""
    lines = [json.loads(line) for line in server.lines["abcd1234"]]
    assert [{name: line[name] for name in row} for row, line in zip(rows, lines, strict=True)] == rows
    assert server.ends[-1]["exitcode"] == 0

    command("minimind", "sync", str(run.path))
    lines = [json.loads(line) for line in server.lines["abcd1234"]]
    assert [{name: line[name] for name in row} for row, line in zip(rows, lines, strict=True)] == rows


def test_an_unreachable_server_means_offline(run: RunFolder, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    mirror = start(run)
    append_row(run.metrics, {"step": 2, "tokens": 5})
    mirror.finish(0)
    message = capfd.readouterr().err
    assert message.startswith("W&B: offline (")
    assert message.count("\n") == 1
    assert "minimind sync" in message
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == 1


def test_a_run_folder_cannot_choose_the_server_that_gets_the_key(small_run: Path, tmp_path: Path) -> None:
    """W&B reads ./wandb/settings, which may come from someone else in a run folder."""
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    copy = Path(shutil.copytree(small_run, tmp_path / "theirs"))
    (copy / "wandb").mkdir(exist_ok=True)
    with FakeServer() as ours, FakeServer() as theirs:
        for server in (ours, theirs):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "config").mkdir()
        for settings, server in ((tmp_path / "config" / "settings", ours), (copy / "wandb" / "settings", theirs)):
            settings.write_text(f"[default]\nbase_url = {server.address}\n")
        done = subprocess.run(
            python_module("minimind.cli.main", "sync", "."), cwd=copy, capture_output=True, text=True, timeout=120,
            env={**environment, "MINIMIND_ROOT": str(tmp_path), "PYTHONPATH": search_path(),
                 "WANDB_CONFIG_DIR": str(tmp_path / "config"), "WANDB_API_KEY": "a" * 40},
        )  # fmt: skip
        ours.shutdown()
        theirs.shutdown()
    assert ours.requests, done.stdout + done.stderr
    assert not theirs.requests
