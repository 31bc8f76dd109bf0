"""How a metric is labelled and formatted, and which direction is better."""

from dataclasses import dataclass
from enum import Enum

from minimind.objectives.config import primaries


class Better(Enum):
    lower = "lower"
    higher = "higher"


@dataclass(frozen=True)
class Metric:
    """A key of summary.json and how to show it."""

    key: str
    label: str
    spec: str  # for `format`
    better: Better | None  # None: unknown, or neither direction is better

    def show(self, value: float) -> str:
        return format(value, self.spec)

    def show_signed(self, value: float) -> str:
        return format(value, f"+{self.spec}")


KNOWN = {
    "val/loss": ("validation loss", ".4f"),
    "val/bits_per_byte": ("bits per byte", ".4f"),
    "val/perplexity": ("validation perplexity", ".2f"),
    "train/loss": ("training loss", ".4f"),
    "train/tokens_per_second": ("tokens/s", ",.0f"),
    "train/mfu": ("MFU", ".2%"),
    "train/real_token_fraction": ("real tokens", ".2%"),
    "train/data_wait_fraction": ("waiting for data", ".2%"),
    "memory/host_peak_mib": ("peak host memory (MiB)", ",.0f"),
    "memory/device_peak_mib": ("peak device memory (MiB)", ",.0f"),
    "parameters": ("parameters", ",.0f"),
    "active_parameters": ("active parameters", ",.0f"),
    "flops": ("FLOPs", ".3g"),
    "elapsed_s": ("training time (s)", ",.1f"),
    "command_s": ("whole command (s)", ",.1f"),
    "step": ("steps", ",.0f"),
    "tokens": ("tokens", ",.0f"),
    "moe/max_load": ("busiest expert ÷ mean", ".3f"),
    "moe/dead_experts": ("dead experts", ".1f"),
    "moe/balance_loss": ("balance loss", ".4f"),
}
LOWER_SUFFIXES = ("loss", "perplexity", "bits_per_byte", "_s", "_mib", "_bytes", "max_load", "dead_experts",
                  "wait_fraction")  # fmt: skip
HIGHER_SUFFIXES = ("per_second", "mfu", "real_token_fraction", "accuracy")


def metric_of(key: str) -> Metric:
    """How to show the metric; the direction that an objective declares overrides the one inferred from the name."""
    label, spec = KNOWN.get(key, (key, ".4g"))
    better = Better.lower if key.endswith(LOWER_SUFFIXES) else Better.higher if key.endswith(HIGHER_SUFFIXES) else None
    return Metric(key, label, spec, _declared().get(key, better))


def _declared() -> dict[str, Better]:
    ends = {"min": Better.lower, "max": Better.higher}
    return {key: ends[end] for metric, end in primaries().items() for key in (metric, best_key(metric))}


def best_key(metric: str) -> str:
    """The key in summary.json of a metric's best value."""
    return f"best_{metric.replace('/', '_')}"


def plural(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"
