"""`minimind`: all commands. Those that take Hydra overrides parse the rest of the command line themselves."""

import argparse
import importlib
import sys
from collections.abc import Callable

from minimind.cli import export, generate, import_, inspect_, report, runs, sync
from minimind.cli.app import guarded
from minimind.utils.user_code import take_option

HYDRA_COMMANDS = {
    "train": "train a model (same as train.py)",
    "evaluate": "evaluate a trained model (same as evaluate.py)",
    "prepare": "turn a corpus into a tokenizer and token shards",
}


def main() -> int:
    return guarded(_main)


def _main() -> int:
    sys.argv[1:] = take_option(sys.argv[1:])
    if sys.argv[1:] and sys.argv[1] in HYDRA_COMMANDS:
        command = sys.argv.pop(1)
        return importlib.import_module(f"minimind.cli.{command}").main()
    arguments = parser().parse_args()
    action: Callable[[argparse.Namespace], int] = arguments.action
    return action(arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="minimind",
        description="Experiments with small language models, from raw text to results.",
        epilog="--allow MODULE, with any command: import your module whose classes a run or checkpoint names.",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, description in HYDRA_COMMANDS.items():
        commands.add_parser(name, help=f"{description}; settings as GROUP.NAME=VALUE", add_help=False)
    for module in (generate, export, import_, inspect_, report, runs, sync):
        module.add_parser(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
