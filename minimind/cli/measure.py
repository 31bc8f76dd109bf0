"""Evaluates a checkpoint on a text, and prints and stores its metrics."""

import hashlib
import time
from pathlib import Path
from typing import Any

import torch

from minimind.config.schema import EvaluateConfig
from minimind.data.loader import SequentialLoader
from minimind.data.packing import validation_packing
from minimind.data.prepare import VALIDATION, prepare_with, verify
from minimind.evaluation.loop import evaluate
from minimind.evaluation.text_loss import TextMeasure, compressor_baselines
from minimind.report.summary import bits_table
from minimind.runs.checkpoints import TOKENIZER
from minimind.runs.folder import RunFolder
from minimind.runs.links import refuse_link, refuse_links
from minimind.training.checkpoint import load_model
from minimind.utils.console import VisibleConsole
from minimind.utils.errors import UserError
from minimind.utils.files import write_json
from minimind.utils.hardware import autocast, keep_freed_memory, pick_device, pick_precision
from minimind.utils.terminal import say

BATCH_SEQUENCES = 16  # per forward pass


def measure(cfg: EvaluateConfig, checkpoint: Path, cache: Path, *, all_held_out: bool) -> dict[str, Any]:
    run = RunFolder(checkpoint.parent.parent)
    _refuse_links(run)
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
    start = time.perf_counter()
    texts = {
        source.name: SequentialLoader(validation_packing(stream, cfg.data), batch=BATCH_SEQUENCES)
        for source, stream in zip(data.sources, streams, strict=True)
    }
    text = TextMeasure(tokenizer)
    total = text.metric(model)
    with autocast(precision, device):
        metrics: dict[str, Any] = dict(evaluate(model, text, texts, total))
    fingerprint = streams[0].fingerprint if len(streams) == 1 else data.fingerprint
    metrics |= {"elapsed_s": round(time.perf_counter() - start, 2), "tokens": int(total.num_tokens),
                "bytes": sum(stream.text_bytes for stream in streams),
                "documents": sum(stream.num_documents for stream in streams), "checkpoint": checkpoint.name,
                "precision": precision, "device": device.type, "data": cfg.data.kind,
                "sequence_length": cfg.data.sequence_length, "fingerprint": fingerprint,
                "compressors": compressor_baselines(streams, tokenizer)}  # fmt: skip
    _show(metrics)
    key = hashlib.sha256(f"{fingerprint}{precision}{cfg.data.sequence_length}".encode()).hexdigest()[:8]
    target = run.evaluations / f"{checkpoint.name}-{cfg.data.kind}-{key}.json"
    target.parent.mkdir(exist_ok=True)
    write_json(target, metrics)
    say(f"Wrote {target}.")
    return metrics


def _refuse_links(run: RunFolder) -> None:
    """A checkpoint may have been copied out of its run: then only `evaluations`, which is written to, is checked."""
    if run.config.is_file():
        refuse_links(run.path)
    else:
        refuse_link(run.evaluations)


def _show(metrics: dict[str, Any]) -> None:
    console = VisibleConsole()
    console.print(
        f"{metrics['checkpoint']} on {metrics['documents']:,} documents, {metrics['bytes']:,} bytes, "
        f"{metrics['tokens']:,} tokens in {metrics['elapsed_s']} s: loss {metrics['val/loss']:.4f}, "
        f"perplexity {metrics['val/perplexity']:.2f}"
    )
    console.print(bits_table(metrics))
