"""`minimind export`: a trained model as a folder for transformers, vLLM and llama.cpp."""

import argparse

from minimind.utils.terminal import say


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("export", help="write a trained model as a folder for Hugging Face's transformers")
    parser.add_argument("run", help="a run folder (its best checkpoint) or a checkpoint folder")
    parser.add_argument("--to", required=True, metavar="DIR", help="the new folder")
    parser.add_argument(
        "--family",
        choices=["llama", "mistral", "qwen3", "qwen3_moe"],
        help="default: chosen by the architecture; mistral in place of llama is the one choice there is",
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the weights")
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
    say(f"{checkpoint} is now a {family} model in {target}.")
    say(f'AutoModelForCausalLM.from_pretrained("{target}") loads it, and AutoTokenizer its tokenizer.')
    return 0
