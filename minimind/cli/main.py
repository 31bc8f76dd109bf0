"""`minimind`: every verb. Those that take Hydra overrides get the rest of the command line as it is."""

import argparse
import importlib
import sys
from collections.abc import Callable

from minimind.cli import export, generate, import_, inspect_, report, runs, sync
from minimind.cli.app import guarded
from minimind.utils.user_code import take_option

HYDRA_VERBS = {
    "train": "train a model (what train.py does)",
    "evaluate": "measure a trained model (what evaluate.py does)",
    "prepare": "turn a corpus into a tokenizer and token shards",
}


def main() -> int:
    return guarded(_main)


def _main() -> int:
    sys.argv[1:] = take_option(sys.argv[1:])
    if sys.argv[1:] and sys.argv[1] in HYDRA_VERBS:
        verb = sys.argv.pop(1)
        return importlib.import_module(f"minimind.cli.{verb}").main()
    arguments = parser().parse_args()
    action: Callable[[argparse.Namespace], int] = arguments.action
    return action(arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="minimind",
        description="Experiments on small language models, from raw text to evidence.",
        epilog="--allow MODULE, with any verb: import this module of yours, whose classes a run or checkpoint names.",
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, description in HYDRA_VERBS.items():
        verbs.add_parser(name, help=f"{description}; settings as GROUP.NAME=VALUE", add_help=False)
    for module in (generate, export, import_, inspect_, report, runs, sync):
        module.add_parser(verbs)
    return top


if __name__ == "__main__":
    sys.exit(main())
