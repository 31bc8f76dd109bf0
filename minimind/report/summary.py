"""What a run prints at the end: its metrics, a comparison with two compressors, samples, and next steps."""

import shlex
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from minimind.objectives.config import primaries
from minimind.report.metrics import metric_of
from minimind.utils.console import VisibleConsole
from minimind.utils.terminal import say

ROWS = (
    ("steps", "step", "{:,}"),
    ("tokens", "tokens", "{:,}"),
    ("parameters", "parameters", "{:,}"),
    ("training loss (last log point)", "train/loss", "{:.4f}"),
    ("validation loss", "val/loss", "{:.4f}"),
    ("validation perplexity", "val/perplexity", "{:.2f}"),
    ("tokens per second", "train/tokens_per_second", "{:,.0f}"),
    ("MFU", "train/mfu", "{:.1%}"),
    ("training time (s)", "elapsed_s", "{:.0f}"),
)


def print_summary(summary: dict[str, Any], samples: list[dict[str, str]], folder: Path) -> None:
    console = VisibleConsole()
    metrics = Table(title="Final metrics", show_header=False)
    for label, key, form in ROWS:
        if key in summary:
            metrics.add_row(label, form.format(summary[key]))
    for primary in map(metric_of, primaries()):
        if primary.key in summary and primary.key not in [key for _, key, _ in ROWS]:
            metrics.add_row(primary.label, primary.show(summary[primary.key]))
    console.print(metrics)
    if "val/bits_per_byte" in summary:
        console.print(bits_table(summary))
    for number, sample in enumerate(samples, start=1):
        console.print("\n", Text(f"Sample {number}", "bold"), " (the prompt is underlined)", sep="")
        prompt = console.render_str(sample["prompt"], style="underline")
        text = prompt.append(console.render_str(sample["continuation"], style="not underline"))
        for line in text.split("\n"):
            console.print(Text("  ").append(line), soft_wrap=True)
    print_next_steps(folder)


def bits_table(metrics: dict[str, Any]) -> Table:
    """Ranks the model among the compressors, best first, relative to `xz -9`."""
    table = Table()
    for column in ("held-out text", "bits per byte", "against xz -9"):
        table.add_column(column, justify="left" if column == "held-out text" else "right")
    entries = {"this model": metrics["val/bits_per_byte"], **metrics.get("compressors", {})}
    for name, bits in sorted(entries.items(), key=lambda entry: entry[1]):
        relative = f"{bits / entries['xz -9'] - 1:+.1%}" if "xz -9" in entries else ""
        table.add_row(name, f"{bits:.4f}", relative, style="bold" if name == "this model" else "")
    return table


def print_next_steps(folder: Path) -> None:
    path = Path(folder)
    shown = shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
    say(f"\nThe run is in {shown}: metrics.jsonl, loss.png, samples.jsonl, checkpoints/. Next steps:")
    say(f'  minimind generate {shown} --prompt "def "')
    say(f"  python evaluate.py checkpoint={shown}")
