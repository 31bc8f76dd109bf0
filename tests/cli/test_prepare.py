"""`minimind prepare` prints what it has prepared, and refuses a bad tokenizer before encoding anything."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from minimind.cli import prepare

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["minimind prepare", *arguments])
        monkeypatch.setenv("MINIMIND_ROOT", str(tmp_path))
        code = prepare.main()
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_a_mixture_is_listed_by_source(run: Run, text_file: Path, tmp_path: Path) -> None:
    lines = text_file.read_text(encoding="utf-8").splitlines()
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    sources = f"{{prose: {{kind: text, files: [{text_file}], block_kb: 1}}, chat: {{kind: jsonl, files: [a.jsonl]}}}}"
    code, out, err = run(
        "data=mixture", f"data.sources={sources}", "data.sources.chat.weight=3", "model.vocab_size=300",
        "trainer.max_steps=10", "trainer.batch_tokens=2560", "schedule.warmup_steps=2",
    )  # fmt: skip
    assert code == 0, err
    blocks = out.split("\nchat\n")
    assert [block.count(" documents, ") for block in blocks] == [2, 2]
    assert "10 steps of 2,560 tokens, 25.0% from this source: " in blocks[0]
    assert "10 steps of 2,560 tokens, 75.0% from this source: " in blocks[1]
    for line in out.splitlines():
        if line.startswith("  folder"):
            assert (Path(line.split()[1]) / "train" / "manifest.json").is_file()
    train = next(line for line in blocks[1].splitlines() if line.startswith("  train "))
    tokens = int(train.split(" tokens")[0].split()[-1].replace(",", ""))
    assert f": {0.75 * 25600 / tokens:.3g} epochs" in blocks[1]


def test_a_tokenizer_too_large_is_refused_before_anything_is_encoded(run: Run, text_file: Path, tmp_path: Path) -> None:
    text = ["data=text", f"data.files=[{text_file}]", "data.block_kb=1"]
    assert run(*text, "model.vocab_size=300")[0] == 0
    (tokenizer,) = tmp_path.glob("cache/tokenizers/*/tokenizer.json")
    before = sorted(tmp_path.glob("cache/shards/*"))
    code, _, err = run(
        *text, "tokenizer=file", f"tokenizer.path={tokenizer}", "model.vocab_size=280", "data.block_kb=2"
    )
    assert (code, "set model.vocab_size=300" in err) == (2, True), err
    assert sorted(tmp_path.glob("cache/shards/*")) == before


def test_prompts_are_not_counted_as_targets(run: Run, text_file: Path, tmp_path: Path) -> None:
    lines = text_file.read_text(encoding="utf-8").splitlines()
    records = ({"q": f"Line {number}? ", "text": line} for number, line in enumerate(lines))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    small = ["model.vocab_size=300", "trainer.max_steps=10", "trainer.batch_tokens=2560", "schedule.warmup_steps=2"]
    data = ["data=jsonl", f"data.files=[{tmp_path / 'a.jsonl'}]"]
    code, out, err = run(*data, *small, "data.prompt_field=q")
    assert code == 0, err
    assert out.count(" are targets), ") == 2
    plain = run(*data, *small)[1]
    assert "targets" not in plain
    assert len(list(tmp_path.glob("cache/shards/*/train/manifest.json"))) == 2
