"""Identity hashes of many configurations, stored in hashes.json; `python tests/golden/hashes.py` adds new ones.

Stored hashes are never changed: an option of `conf/` gets its hash when it is added and keeps it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from golden_set import GOLDEN_RUNS
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from minimind.config.plan import plain
from minimind.config.schema import register
from minimind.runs.identity import run_hash
from minimind.utils.paths import conf_dir

FILE = Path(__file__).parent / "hashes.json"
MINIMIND3 = ("data.files=[a.jsonl]", "tokenizer.path=t.json")
NEEDED = {
    "data=text": ("data.files=[a.txt]",),
    "data=jsonl": ("data.files=[a.jsonl]",),
    "data=parquet": ("data.files=[a.parquet]",),
    "data=huggingface": ("data.dataset=a",),
    "data=mixture": ("data.sources={a: {weight: 2, kind: text, files: [a.txt]}, code: {kind: stdlib}}",),
    "optim=own": ("optim.kind=torch.optim.SGD",),
    "tokenizer=file": ("tokenizer.path=t.json",),
    **{f"experiment=minimind3_{name}": MINIMIND3 for name in ("pretrain", "moe_pretrain", "packed")},
}
OTHERS = (
    (), ("seed=2",), ("run.tag=again",), ("init_from=runs/another",), ("trainer.max_steps=null", "trainer.epochs=2"),
    ("trainer.compile=true", "trainer.deterministic=true", "trainer.gradient_clip=0"),
    ("model.rope_scaling.factor=4", "model.attention_dropout=0.1"), ("optim.betas=[0.8,0.9]", "optim.eps=1e-6"),
    ("schedule.horizon_steps=3000",), ("data.validation_files=[b.txt]", "data=text", "data.files=[a.txt,'c/*.txt']"),
)  # fmt: skip


def options() -> list[tuple[str, ...]]:
    """Each option of each group on its own; for an ablation, which is not part of a run's identity, its last arm."""
    found = []
    for path in sorted(conf_dir().glob("*/*.yaml")):
        option = f"{path.parent.name}={path.stem}"
        if path.parent.name == "ablation":
            ablation: Any = OmegaConf.to_container(OmegaConf.load(path))
            found.append((*ablation.get("common", []), *list(ablation["arms"].values())[-1]))
        else:
            found.append((option, *NEEDED.get(option, ())))
    return found


def configurations() -> list[tuple[str, ...]]:
    golden = [run.overrides for run in GOLDEN_RUNS if "-m" not in run.overrides]
    return list(dict.fromkeys([*golden, *options(), *OTHERS]))


def recorded() -> dict[tuple[str, ...], str]:
    return {tuple(entry["overrides"]): entry["hash"] for entry in json.loads(FILE.read_text(encoding="utf-8"))}


@contextmanager
def hydra() -> Iterator[None]:
    """Initialise Hydra once for many compositions."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def composed(overrides: tuple[str, ...], root: str = "/nowhere") -> DictConfig:
    """Compose the configuration of a command line; call within `hydra()`."""
    return compose("train", overrides=[*overrides, f"paths.root={root}"])


def container_of(overrides: tuple[str, ...], root: str = "/nowhere") -> dict[str, Any]:
    """The composed configuration as plain types, as it is hashed and stored."""
    return plain(composed(overrides, root))


def add_new() -> None:
    known = recorded() if FILE.is_file() else {}
    with hydra():
        new = {one: run_hash(plain(composed(one))) for one in configurations() if one not in known}
    lines = [json.dumps({"hash": digest, "overrides": list(one)}) for one, digest in {**known, **new}.items()]
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"Added {len(new)} to {len(known)} hashes.")


if __name__ == "__main__":
    add_new()
