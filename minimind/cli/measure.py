"""Loads a checkpoint, runs it over a text, prints and keeps the figures."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from minimind.config.load import load_model
from minimind.config.schema import EvaluateConfig
from minimind.data.loader import ValidationLoader
from minimind.data.packing import WindowPacking, validation_packing, widen
from minimind.data.prepare import VALIDATION, prepare_with
from minimind.data.verify import verify
from minimind.evaluation.compressors import compressors_on
from minimind.evaluation.text_loss import TextLoss, padded_token_bytes
from minimind.model.losses import cross_entropy_sum
from minimind.model.transformer import MiniMind
from minimind.objectives.pretrain import logits_of
from minimind.report.summary import bits_table
from minimind.runs.checkpoints import TOKENIZER
from minimind.runs.folder import RunFolder
from minimind.runs.links import refuse_link
from minimind.utils.console import VisibleConsole
from minimind.utils.errors import UserError
from minimind.utils.files import write_json
from minimind.utils.hardware import autocast, pick_device, pick_precision
from minimind.utils.memory import keep_freed_memory
from minimind.utils.terminal import say

ROWS = 16  # of one forward pass


def measure(cfg: EvaluateConfig, checkpoint: Path, cache: Path, *, all_held_out: bool) -> dict[str, Any]:
    run = RunFolder(checkpoint.parent.parent)
    refuse_link(run.evaluations)
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    device = pick_device(cfg.trainer.accelerator)
    precision = pick_precision(cfg.trainer.precision, device)
    model, tokenizer = load_model(checkpoint, device)
    if cfg.data.sequence_length > model.config.context_length:
        raise UserError(
            f"`data.sequence_length` must be at most the model's context of {model.config.context_length} tokens, "
            f"but is {cfg.data.sequence_length}."
        )
    data = prepare_with(cfg.data, checkpoint / TOKENIZER, cache, all_held_out=all_held_out)
    verify(data, tokenizer, cfg.data.verify)
    keep_freed_memory()
    streams = data.streams(VALIDATION)
    token_bytes = padded_token_bytes(tokenizer, model.config.vocab_size)
    of_all, start = TextLoss(token_bytes).to(device), time.perf_counter()
    figures: dict[str, Any] = {}
    for source, stream in zip(data.sources, streams, strict=True):
        of_source = TextLoss(token_bytes).to(device)
        add_losses(model, validation_packing(stream, cfg.data), ROWS, precision, [of_all, of_source])
        if len(streams) > 1:
            found = of_source.compute()
            figures |= {f"val/{source.name}/{name}": found[name] for name in ("loss", "bits_per_byte")}
    fingerprint = streams[0].fingerprint if len(streams) == 1 else data.fingerprint
    figures |= {f"val/{name}": value for name, value in of_all.compute().items()}
    figures |= {"elapsed_s": round(time.perf_counter() - start, 2), "tokens": int(of_all.num_tokens),
                "bytes": sum(stream.text_bytes for stream in streams),
                "documents": sum(stream.num_documents for stream in streams), "checkpoint": checkpoint.name,
                "precision": precision, "device": device.type, "data": cfg.data.kind,
                "sequence_length": cfg.data.sequence_length, "fingerprint": fingerprint,
                "compressors": compressors_on(streams, tokenizer)}  # fmt: skip
    _show(figures)
    key = hashlib.sha256(f"{fingerprint}{precision}{cfg.data.sequence_length}".encode()).hexdigest()[:8]
    target = run.evaluations / f"{checkpoint.name}-{cfg.data.kind}-{key}.json"
    target.parent.mkdir(exist_ok=True)
    write_json(target, figures)
    say(f"Written to {target}.")
    return figures


def add_losses(
    model: MiniMind, packing: WindowPacking, num_rows: int, precision: str, metrics: Sequence[TextLoss]
) -> None:
    """Runs the model over a text, `num_rows` windows at a time, and gives each metric the loss."""
    device = model.lm_head.weight.device
    with torch.inference_mode(), autocast(precision, device):
        for rows in ValidationLoader(packing, rows=num_rows):
            batch = widen(rows.to(device))
            loss = cross_entropy_sum(logits_of(model, batch).logits, batch.labels)
            for metric in metrics:
                metric.update(loss, batch.labels)


def _show(figures: dict[str, Any]) -> None:
    console = VisibleConsole()
    console.print(
        f"{figures['checkpoint']} on {figures['documents']:,} documents, {figures['bytes']:,} bytes, "
        f"{figures['tokens']:,} tokens in {figures['elapsed_s']} s: loss {figures['val/loss']:.4f}, "
        f"perplexity {figures['val/perplexity']:.2f}"
    )
    console.print(bits_table(figures))
