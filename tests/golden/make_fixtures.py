"""Makes folders that every later version must read: `python tests/golden/make_fixtures.py NAME --source DIR`.

The train.py of DIR (a checkout of the commit whose formats are to be kept) trains two tiny models, one of which is
stopped, and a sweep. The files a user would keep go to tests/golden/fixtures/NAME, and what that commit itself reads
from them to `expected.json` in the same folder. When the format of a run folder, checkpoint or shard file changes, add
fixtures made by the last commit before the change; never regenerate old ones. test_old_folders.py reads all of them.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from made_text import made_documents, write_records
from measured import json_lines

FIXTURES = Path(__file__).parent / "fixtures"
ROOT = Path("/tmp/minimind-golden")  # stored in the folders, but does not exist when they are read
TINY = (
    "model.hidden_size=8", "model.vocab_size=288", "model.num_hidden_layers=1", "model.intermediate_size=16",
    "model.max_position_embeddings=64", "model.tie_word_embeddings=true", "model.embedding_initializer_range=null",
    "optim.embedding_lr_ratio=1", "data=jsonl", "data.files=[made.jsonl]", "data.sequence_length=32",
    "trainer.batch_tokens=128", "trainer.num_threads=1", "trainer.precision=32-true", "trainer.keep_checkpoints=1",
    "schedule.warmup_steps=2", "evaluation.max_new_tokens=8",
)  # fmt: skip
COMMANDS = {
    "dense": [*TINY, "run.name=dense", "trainer.max_steps=20", "trainer.log_every_steps=5",
              "trainer.validate_every_steps=10", "trainer.checkpoint_every_steps=20"],
    "moe": [*TINY, "run.name=moe", "tokenizer=file", "tokenizer.path=shards/tokenizer.json", "optim=muon",
            "model.num_experts=4", "model.num_experts_per_tok=2", "model.moe_intermediate_size=8", "model.dropout=0.1",
            "trainer.micro_batch=2", "trainer.max_steps=150", "trainer.log_every_steps=10",
            "trainer.validate_every_steps=50", "trainer.checkpoint_every_steps=50"],
    "sweep": ["-m", "ablation=norm", "ablation.seeds=[1,2]", *TINY, "trainer.max_steps=10", "trainer.log_every_steps=5",
              "trainer.validate_every_steps=10", "trainer.checkpoint_every_steps=10", "run.name=arm"],
}  # fmt: skip
STOPPED_AT = 20
KEPT_OF_THE_SWEEPS_RUNS = ("config.yaml", "status.json", "metrics.jsonl", "summary.json")
LEFT_OUT_OF_OTHERS = ("*.held", "lock.json", "loss.png")
PROMPT = ["--prompt", "ba do", "--seed", "1", "--temperature", "1", "--max-new-tokens", "24"]


class Maker:
    def __init__(self, source: Path) -> None:
        self.source = source.resolve()

    def start(self, *command: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "MINIMIND_ROOT": str(ROOT), "PYTHONPATH": str(self.source), "OMP_NUM_THREADS": "1",
                       "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    def run(self, *command: str) -> str:
        return self.ended(self.start(*command), 0)

    def ended(self, process: "subprocess.Popen[str]", code: int) -> str:
        out, errors = process.communicate(timeout=300)
        if process.returncode != code:
            raise SystemExit(f"{process.args} ended with {process.returncode}:\n{out[-2000:]}\n{errors[-4000:]}")
        return out

    def train(self, *arguments: str) -> None:
        self.run(str(self.source / "train.py"), *arguments)

    def stop(self, *arguments: str) -> None:
        """Start training and send SIGTERM soon after step `STOPPED_AT` is logged."""
        process = self.start(str(self.source / "train.py"), *arguments)
        while process.poll() is None and not any(row["step"] >= STOPPED_AT for row in rows_of("moe")):
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        self.ended(process, 75)


def folder_of(name: str) -> Path:
    (folder,) = ROOT.glob(f"runs/{name}-????????")
    return folder


def rows_of(name: str) -> list[dict[str, Any]]:
    return [row for path in ROOT.glob(f"runs/{name}-*/metrics.jsonl") for row in json_lines(path)]


def expected(maker: Maker) -> dict[str, Any]:
    """Results of the commit itself; the stopped run is also trained without interruption, under another tag."""
    maker.run(str(maker.source / "evaluate.py"), f"checkpoint=runs/{folder_of('dense').name}")
    (evaluation,) = folder_of("dense").glob("evaluations/*.json")
    text = maker.run("-m", "minimind.cli.main", "generate", f"runs/{folder_of('dense').name}", *PROMPT)
    maker.train(*COMMANDS["moe"], "run.tag=whole", "run.name=whole")
    of_shards = "import sys; from pathlib import Path; from minimind.data.shards import TokenStream; " \
                "s = TokenStream(Path(sys.argv[1])); print(s.read(0, len(s)).tolist())"  # fmt: skip
    ids = {
        split: json.loads(maker.run("-c", of_shards, str(ROOT / "shards" / split))) for split in ("train", "validation")
    }
    return {
        "evaluation": json.loads(evaluation.read_text()),
        "generate": {"options": PROMPT, "text": text},
        "whole": rows_of("whole")[-1],
        "shards": {split: {"tokens": len(of), "sha256": hashlib.sha256(json.dumps(of).encode()).hexdigest()}
                   for split, of in ids.items()},
    }  # fmt: skip


def keep(target: Path, found: dict[str, Any]) -> None:
    """Copy the files that tests read, without large files or anything that identifies this machine."""
    target.mkdir(parents=True)
    shutil.copy(ROOT / "made.jsonl", target / "made.jsonl")
    shutil.copytree(ROOT / "shards", target / "shards")
    for name in ("dense", "moe"):
        shutil.copytree(folder_of(name), target / "runs" / folder_of(name).name,
                        ignore=shutil.ignore_patterns(*LEFT_OUT_OF_OTHERS))  # fmt: skip
    for folder in ROOT.glob("runs/arm-*"):
        (target / "runs" / folder.name).mkdir()
        for name in KEPT_OF_THE_SWEEPS_RUNS:
            shutil.copy(folder / name, target / "runs" / folder.name / name)
    (sweep,) = ROOT.glob("sweeps/*-????????")
    (target / "sweeps" / sweep.name).mkdir(parents=True)
    shutil.copy(sweep / "sweep.json", target / "sweeps" / sweep.name / "sweep.json")
    for status in target.glob("runs/*/status.json"):
        content = json.loads(status.read_text())
        content["machine"]["host"] = "nowhere"
        status.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    commands = {name: COMMANDS[name] for name in ("dense", "moe")}
    (target / "expected.json").write_text(json.dumps({"commands": commands, **found}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the new folder in tests/golden/fixtures")
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="checkout of the old commit")
    arguments = parser.parse_args()
    target = FIXTURES / arguments.name
    if target.exists():
        raise SystemExit(f"{target} must not exist: fixtures are never regenerated.")
    ROOT.mkdir()
    try:
        # with this seed four documents are held out
        write_records(ROOT / "made.jsonl", made_documents("fixtures 20", 60, 50))
        maker = Maker(arguments.source)
        maker.train(*COMMANDS["dense"])
        (shards,) = ROOT.glob("cache/shards/????????????????")
        shutil.copytree(shards, ROOT / "shards")
        maker.stop(*COMMANDS["moe"])
        maker.train(*COMMANDS["sweep"])
        keep(target, expected(maker))
    finally:
        shutil.rmtree(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
