"""`minimind export`: writes a trained model for transformers, vLLM and llama.cpp."""

import argparse

from minimind.utils.terminal import say


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("export", help="write a trained model as a folder for Hugging Face's transformers")
    parser.add_argument("run", help="a run folder (its best checkpoint) or a checkpoint folder")
    parser.add_argument("--to", required=True, metavar="DIR", help="the new folder")
    parser.add_argument(
        "--family",
        choices=["llama", "mistral", "qwen3", "qwen3_moe"],
        help="default: given by the architecture; the only alternative is mistral for llama",
    )
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="default: %(default)s"
    )
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    import torch

    from minimind.interop.huggingface import export_folder
    from minimind.runs.checkpoints import checkpoint_of
    from minimind.training.checkpoint import load_model
    from minimind.utils.paths import find_existing

    checkpoint = checkpoint_of(find_existing(arguments.run, "The run"))
    model, tokenizer = load_model(checkpoint, torch.device("cpu"))
    target = Path(arguments.to).expanduser().absolute()
    family = export_folder(
        model, tokenizer, target, family=arguments.family, dtype=getattr(torch, arguments.dtype)
    )  # fmt: skip
    say(f"Exported {checkpoint} as a {family} model to {target}.")
    say(f'Load it with AutoModelForCausalLM.from_pretrained("{target}"), and its tokenizer with AutoTokenizer.')
    return 0
