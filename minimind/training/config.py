"""Trainer settings: duration, batch size, precision, devices, and how often to log, validate and save."""

from dataclasses import dataclass

from minimind.utils.errors import ConfigError

PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed")


@dataclass
class RecipeConfig:
    """Default training settings for a model size; the other groups refer to them.

    The defaults here are minimind_26m's, as are those of `ModelConfig`.
    """

    max_steps: int = 3900
    batch_tokens: int = 131072
    sequence_length: int = 512
    packing: str = "stream"
    document_mask: bool = False
    lr: float = 8.6e-4
    embedding_lr_ratio: float = 1.0
    beta2: float = 0.95
    warmup_steps: int = 200
    final_lr_ratio: float = 0.1
    validate_every_steps: int = 500


@dataclass
class TrainerConfig:
    max_steps: int | None = 3900  # optimizer steps; None: as many as `epochs` take
    epochs: float | None = None  # passes over the training data; None: as many as `max_steps` make
    batch_tokens: int = 131072  # per optimizer step, over all devices and micro-batches
    micro_batch: int | None = None  # examples per forward pass on one device; None: as many as fit a fixed budget
    precision: str = "auto"  # auto: bf16-mixed where the device supports it, else 32-true
    gradient_clip: float = 1.0  # maximum global gradient norm; 0: no clipping
    compile: bool = False
    deterministic: bool = False
    accelerator: str = "auto"
    devices: int = 1
    num_threads: int | None = None  # CPU threads; None: torch's default
    log_every_steps: int = 10
    validate_every_steps: int = 500
    checkpoint_every_steps: int = 500
    checkpoint_every_minutes: float | None = None  # in addition to `checkpoint_every_steps`
    keep_checkpoints: int = 2  # newest ones; the best by the primary metric is always kept
    keep_every_steps: int | None = None  # checkpoints at multiples of this are never deleted
    max_nonfinite_steps: int = 20  # consecutive steps with a non-finite loss or gradient before the run stops

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ConfigError(found)


def problems(cfg: TrainerConfig) -> list[str]:
    found = []
    if (cfg.max_steps is None) == (cfg.epochs is None):
        found.append(
            "`trainer.max_steps` or `trainer.epochs` must be set, and the other must be null, "
            f"but they are {cfg.max_steps} and {cfg.epochs}; add trainer.epochs=null or trainer.max_steps=null."
        )
    if cfg.epochs is not None and cfg.epochs <= 0:
        found.append(f"`trainer.epochs` must be above 0, but is {cfg.epochs}.")
    if cfg.max_steps is not None and cfg.max_steps < 1:
        found.append(f"`trainer.max_steps` must be at least 1, but is {cfg.max_steps}.")
    for name in ("batch_tokens", "devices", "log_every_steps", "validate_every_steps",
                 "checkpoint_every_steps", "keep_checkpoints", "max_nonfinite_steps"):  # fmt: skip
        if getattr(cfg, name) < 1:
            found.append(f"`trainer.{name}` must be at least 1, but is {getattr(cfg, name)}.")
    for name in ("micro_batch", "num_threads"):
        value = getattr(cfg, name)
        if value is not None and value < 1:
            found.append(f"`trainer.{name}` must be at least 1 (or null for an automatic choice), but is {value}.")
    if cfg.checkpoint_every_minutes is not None and cfg.checkpoint_every_minutes <= 0:
        found.append(
            f"`trainer.checkpoint_every_minutes` must be above 0 (or null), but is {cfg.checkpoint_every_minutes}."
        )
    if cfg.keep_every_steps is not None and (
        cfg.keep_every_steps < 1 or cfg.keep_every_steps % cfg.checkpoint_every_steps
    ):
        found.append(
            f"`trainer.keep_every_steps` must be a multiple of `trainer.checkpoint_every_steps` "
            f"({cfg.checkpoint_every_steps}), or null, but is {cfg.keep_every_steps}."
        )
    if cfg.gradient_clip < 0:
        found.append(f"`trainer.gradient_clip` must be at least 0 (no clipping), but is {cfg.gradient_clip}.")
    if cfg.precision not in PRECISIONS:
        found.append(f"`trainer.precision` must be one of {', '.join(PRECISIONS)}, but is {cfg.precision}.")
    if cfg.accelerator not in ("auto", "cpu", "cuda", "mps"):
        found.append(f"`trainer.accelerator` must be one of auto, cpu, cuda, mps, but is {cfg.accelerator}.")
    if cfg.accelerator == "cpu" and cfg.precision == "16-mixed":
        found.append("`trainer.precision` must not be 16-mixed on a CPU (torch computes bf16 instead); use bf16-mixed.")
    return found


def is_due(step: int, every: int, last: int | None) -> bool:
    """Whether something done every `every` steps and at the last one is due after `step` steps."""
    return step % every == 0 or step == last
