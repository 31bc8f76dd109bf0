"""The `--help` texts, for users who do not know Hydra; options are listed from conf/, so they are always current."""

import textwrap
from pathlib import Path

WIDTH = 110

TRAIN = """\
Train a small language model from raw text, evaluate it, and write a run folder.

  python train.py                                   the default run: the nano model on Python's standard library
  python train.py data=text data.files='[my/*.txt]' your own text
  python train.py model=minimind_26m trainer.max_steps=2000 optim.lr=1e-3
  python train.py -m ablation=norm                  all arms with all seeds, and a report on the differences
  python train.py -m optim.lr=3e-3,1e-2 seed=1,2,3  all combinations, one after the other
  python train.py --cfg job                         show all settings and stop

Set a value with GROUP.NAME=VALUE (trainer.max_steps=2000). Choose a whole group with GROUP=OPTION (optim=muon):

{groups}

Common settings:
  trainer.max_steps     optimizer steps                  trainer.batch_tokens   tokens per step
  trainer.epochs=2 trainer.max_steps=null                train for two epochs
  data.sequence_length  tokens per example               optim.lr               peak learning rate
  seed                  for all random numbers           trainer.precision      auto, 32-true, bf16-mixed, …
  run.name, run.tag     label; a tag makes another run   run.fresh=true         start over (old folder is kept)
  init_from             run whose weights to start from  logger, callbacks      may be lists: logger='[wandb,csv]'

Run the same command again to resume an unfinished run. Quote values that contain brackets or spaces.
Exit codes: 0 finished, 1 failed, 2 invalid configuration or input, 75 stopped (run the command again).
For sweeps: hydra.launcher.num_parallel=N, ablation.seeds='[1,2,3,4]'. Hydra's own options: --hydra-help
"""

EVALUATE = """\
Evaluate a trained model: loss, perplexity and bits per byte, compared with gzip and xz.

  python evaluate.py checkpoint=runs/<run>                              on its own held-out text
  python evaluate.py checkpoint=runs/<run>/checkpoints/step_00001000    one checkpoint
  python evaluate.py checkpoint=runs/<run> data=text data.files='[a.txt]'   on another text, all of it

Model and tokenizer come from the checkpoint. Data, precision and device come from the run unless overridden:
  data=OPTION, data.NAME=VALUE   options: {data}
  trainer.precision, trainer.accelerator, trainer.num_threads
Results are printed and written to <run>/evaluations/.
"""

PREPARE = """\
Turn a corpus into a tokenizer and token shards in the cache that train.py reads. Takes the same settings as train.py.

  minimind prepare                                        the default corpus
  minimind prepare data=jsonl data.files='[a.jsonl.gz]' model.vocab_size=6400
  minimind prepare data=jsonl data.files='[a.jsonl]' tokenizer=file tokenizer.path=tokenizer.json
  minimind prepare data=mixture data.sources='{{a: {{weight: 2, kind: text, files: [a.txt]}}, b: {{kind: stdlib}}}}'

data.prepare_processes=N sets the number of processes (default: all cores). If interrupted, run it again to continue.
Corpora (data=…): {data}
"""

HIDDEN = ("hydra",)


def train_help(conf: Path) -> str:
    groups = sorted(folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name not in HIDDEN)
    lines = [
        textwrap.fill(
            ", ".join(options(conf, group)), WIDTH, initial_indent=f"  {group:<10} ", subsequent_indent=" " * 13,
            break_on_hyphens=False,
        )
        for group in groups
    ]  # fmt: skip
    return TRAIN.format(groups="\n".join(lines))


def evaluate_help(conf: Path) -> str:
    return EVALUATE.format(data=", ".join(options(conf, "data")))


def options(conf: Path, group: str) -> list[str]:
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def prepare_help(conf: Path) -> str:
    return PREPARE.format(data=", ".join(options(conf, "data")))
