"""The LightningModule that trains any objective: one optimizer step over a list of micro-batches."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from minimind.evaluation.loop import evaluate
from minimind.model.transformer import MiniMind
from minimind.objectives.balance import routing_metrics
from minimind.objectives.protocol import Loss, Objective
from minimind.optim.build import build_optimizer
from minimind.optim.config import OptimConfig, ScheduleConfig
from minimind.optim.schedules import learning_rate_factor
from minimind.parallel.collectives import sum_over_ranks, sums_over_ranks

COUNT = "/count"  # appended to a metric's name for the count that its sum is divided by
HALF = (torch.bfloat16, torch.float16)


class Sums:
    """Named metrics summed on the device, so that no step waits for them."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        known = [name for name in values if name in self.values]
        same_dtype = [name for name in known if self.values[name].dtype == values[name].dtype]
        if same_dtype:
            added = [values[name].detach() for name in same_dtype]
            torch._foreach_add_([self.values[name] for name in same_dtype], added)
        for name in values:
            if name not in known:
                self.values[name] = values[name].detach().clone()
            elif name not in same_dtype:  # for example, if a rank had no value before
                self.values[name] = self.values[name] + values[name].detach()

    def take(self) -> dict[str, Tensor]:
        """Return the sums and reset them."""
        values, self.values = self.values, {}
        return values


class TrainingModule(pl.LightningModule):
    """Trains `model` on an objective; a batch, for Lightning, is the list of micro-batches of one optimizer step.

    Losses are sums over micro-batches and ranks until the gradient is divided by the weight of the whole step, so the
    result does not depend on how a step is split.
    """

    automatic_optimization = False

    def __init__(
        self, model: MiniMind, objective: Objective[Any], *, optim: OptimConfig, schedule: ScheduleConfig,
        gradient_clip: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        self.objective = objective
        self.optim = optim
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.metric_shapes = {**dict.fromkeys(objective.cfg.metrics, ()), **routing_metrics(model.config)}
        self.step_sums = Sums()  # current optimizer step, this rank only
        self.window_sums = Sums()  # since the last log point, over all ranks
        self.last_good_step = torch.zeros((), dtype=torch.long)  # the last one with a finite loss and gradient
        self.validation_metrics: dict[str, float] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """A fast path for Lightning's current hook, set several times per step; `nn.Module.__setattr__` is slow."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def training_step(self, batches: list[Any], step: int) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
        optimizer.zero_grad()
        precision = self.trainer.precision_plugin
        with torch.no_grad(), precision.forward_context():
            batches = self.objective.enrich(self.model, batches, sum_over_ranks)
        if not batches:
            raise ValueError(f"{type(self.objective).__name__}.enrich must return at least one batch on each rank.")
        for number, batch in enumerate(batches, start=1):
            with precision.forward_context():
                loss = self.objective.loss(self.model, batch)
                total = loss.total if loss.auxiliary is None else loss.total + loss.auxiliary
            self._add_sums(loss)
            with nullcontext() if number == len(batches) else self._no_gradient_sync():
                self.manual_backward(total)
        optimizer.step()

    def _no_gradient_sync(self) -> Any:
        """Ranks sum their gradients once per step, after the last micro-batch."""
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return block()

    def _add_sums(self, loss: Loss) -> None:
        """Raises: ValueError, if a metric is not declared, or an MoE model's metrics are missing."""
        if "moe/load" in self.metric_shapes and "moe/load" not in loss.metrics:
            raise ValueError(
                f"{type(self.objective).__name__}.loss must return the auxiliary term and the metrics "
                "of objectives.balance for an MoE model, but does not."
            )
        sums = {"loss": loss.total, "weight": loss.weight, "tokens": loss.num_tokens}
        for name, (total, count) in loss.metrics.items():
            if name not in self.metric_shapes:
                raise ValueError(f"{type(self.objective.cfg).__name__}.metrics must declare {name!r}, but does not.")
            sums |= {name: total, name + COUNT: count}
        self.step_sums.add({name: value.float() if value.dtype in HALF else value for name, value in sums.items()})

    def _reduce_step_sums(self) -> dict[str, Tensor]:
        """Sum the step's metrics over all ranks; a rank without a value contributes a zero sum and count."""
        sums = self.step_sums.take()
        for name, shape in self.metric_shapes.items():
            if name not in sums:
                sums[name] = torch.zeros(shape, device=self.device, dtype=torch.float32)
                sums[name + COUNT] = torch.zeros((), device=self.device, dtype=torch.float32)
        return sums_over_ranks(dict(sorted(sums.items())))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate, turn the gradient of the summed loss into that of the mean, and clip its norm.

        A step is skipped if its loss or gradient is not finite, or its weight is 0: the optimizer reads `found_inf` (a
        fused one on the device) and leaves weights, moments and step counts unchanged. The norm is global, so all ranks
        agree.
        """
        factor = learning_rate_factor(self.schedule, self.trainer.global_step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        sums = self._reduce_step_sums()
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        empty = sums["weight"] == 0
        weight = sums["weight"].masked_fill(empty, 1)
        norm = nn.utils.get_total_norm(gradients) / weight
        scale = 1 / weight
        if self.gradient_clip:
            scale = scale * (self.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        nonfinite = ~torch.isfinite(norm + sums["loss"])
        optimizer.found_inf = (nonfinite | empty).float()  # type: ignore[attr-defined]  # as torch's GradScaler does
        self._record_step(sums, norm, nonfinite, empty)

    def _record_step(self, sums: dict[str, Tensor], norm: Tensor, nonfinite: Tensor, empty: Tensor) -> None:
        """Add the step to the sums since the last log point; a non-finite step adds only its tokens."""
        self.last_good_step = torch.where(nonfinite, self.last_good_step, self.trainer.global_step + 1)
        finite = {name: value.masked_fill(nonfinite, 0) for name, value in {**sums, "grad_norm": norm}.items()}
        steps = {"steps": torch.ones_like(norm), "skipped": nonfinite.float(), "empty": empty.float()}
        self.window_sums.add({**finite, "tokens": sums["tokens"], **steps})
        if "moe/load" in sums:
            self.model.update_router_bias(sums["moe/load"], keep=nonfinite | empty)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training"] = {"window": dict(self.window_sums.values), "last_good_step": self.last_good_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.window_sums.values = checkpoint["training"]["window"]
        self.last_good_step = checkpoint["training"]["last_good_step"]

    def on_fit_start(self) -> None:
        """Move the frozen models, which are not submodules so that checkpoints and the optimizer leave them out."""
        for frozen in self.objective.frozen.values():
            frozen.to(self.device, self.model.dtype)

    def on_train_start(self) -> None:
        """Move the sums, which may come from a checkpoint, now that the module is on its device."""
        self.window_sums.values = {name: value.to(self.device) for name, value in self.window_sums.values.items()}
        self.last_good_step = self.last_good_step.to(self.device)

    def validation_step(self, sources: dict[str, Any], batch_idx: int) -> None:
        self.validation_metrics = evaluate(self.model, self.objective, sources)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = build_optimizer(self._trainable_parameters(), self.optim)
        # Make float16's scaler unscale before the norm is computed and clipped, not inside the fused step.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer

    def _trainable_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
