"""`minimind generate`: continues a prompt with a trained model, streaming to the terminal."""

import argparse
import sys
from dataclasses import replace
from itertools import chain

from minimind.utils.terminal import say


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("generate", help="continue a prompt with a trained model")
    parser.add_argument("run", help="a run folder (its best checkpoint) or a checkpoint folder")
    parser.add_argument("--prompt", default="-", help="text to continue; - (default) reads standard input")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0 is greedy; default: %(default)s")
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="N", help="only the N likeliest tokens; 0 (default): all"
    )
    parser.add_argument("--top-p", type=float, default=0.95, metavar="X", help="nucleus sampling; default: %(default)s")
    parser.add_argument("--yarn", type=float, metavar="FACTOR", help="extend the context by this factor with YaRN")
    parser.add_argument("--greedy", action="store_true", help="always choose the likeliest token")
    parser.add_argument("--seed", type=int, default=None, help="makes the text reproducible")
    parser.add_argument("--raw", action="store_true", help="do not escape control characters on a terminal")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or mps")
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from minimind.generation.sampling import SamplingConfig
    from minimind.library import stream
    from minimind.runs.checkpoints import checkpoint_of
    from minimind.training.checkpoint import load_model
    from minimind.utils.hardware import pick_device
    from minimind.utils.paths import find_existing

    temperature = 0.0 if arguments.greedy else arguments.temperature
    sampling = {"temperature": temperature, "top_k": arguments.top_k, "top_p": arguments.top_p}
    SamplingConfig(**sampling)  # refused before anything is loaded
    device = pick_device(arguments.device)
    model, tokenizer = load_model(checkpoint_of(find_existing(arguments.run, "The run")), device)
    if arguments.yarn is not None:
        model.set_rope_scaling(replace(model.config.rope_scaling, factor=arguments.yarn))
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    continuation = stream(
        model, tokenizer, prompt, max_new_tokens=arguments.max_new_tokens, seed=arguments.seed, **sampling
    )
    for text in chain([prompt], continuation, ["\n"]):
        say(text, end="", raw=arguments.raw)
    return 0
