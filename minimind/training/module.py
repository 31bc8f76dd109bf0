"""The one LightningModule: it takes optimizer steps on an objective, and divides by what the whole step weighs."""

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
from minimind.training.sums import COUNT, Sums

HALF = (torch.bfloat16, torch.float16)


class TrainingModule(pl.LightningModule):
    """Trains `model`; its unit is the optimizer step, which comes as a list of micro-batches.

    Losses stay sums, over micro-batches and ranks, until the gradient is divided by the weight of the whole step. So
    the result is the same however a step is cut.
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
        self.step_sums = Sums()  # of this rank, in this optimizer step
        self.window_sums = Sums()  # of all ranks, since the last log point
        self.last_good_step = torch.zeros((), dtype=torch.long)  # the last whose loss and gradient were finite
        self.validated: dict[str, float] = {}  # what the last validation found

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes several times a step which hook it is in, and a module takes long to set an attribute."""
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
            raise ValueError(f"{type(self.objective).__name__}.enrich must leave each rank one batch or more.")
        for number, batch in enumerate(batches, start=1):
            with precision.forward_context():
                loss = self.objective.loss(self.model, batch)
                total = loss.total if loss.auxiliary is None else loss.total + loss.auxiliary
            self._count(loss)
            with nullcontext() if number == len(batches) else self._without_synchronisation():
                self.manual_backward(total)
        optimizer.step()

    def _without_synchronisation(self) -> Any:
        """Ranks add up their gradients once, after the last micro-batch."""
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return block()

    def _count(self, loss: Loss) -> None:
        """Raises: ValueError, if a metric is not declared, or the experts' are missing."""
        if "moe/load" in self.metric_shapes and "moe/load" not in loss.metrics:
            raise ValueError(
                f"{type(self.objective).__name__}.loss must give the auxiliary term and the metrics of "
                "objectives.balance for a model with experts, but does not."
            )
        sums = {"loss": loss.total, "weight": loss.weight, "tokens": loss.num_tokens}
        for name, (total, count) in loss.metrics.items():
            if name not in self.metric_shapes:
                raise ValueError(f"{type(self.objective.cfg).__name__}.metrics must declare {name!r}, but does not.")
            sums |= {name: total, name + COUNT: count}
        self.step_sums.add({name: value.float() if value.dtype in HALF else value for name, value in sums.items()})

    def _take_step(self) -> dict[str, Tensor]:
        """The step's sums over all ranks; a metric that this rank has no value of is here nothing of nothing."""
        sums = self.step_sums.take()
        for name, shape in self.metric_shapes.items():
            if name not in sums:
                sums[name] = torch.zeros(shape, device=self.device, dtype=torch.float32)
                sums[name + COUNT] = torch.zeros((), device=self.device, dtype=torch.float32)
        return sums_over_ranks(dict(sorted(sums.items())))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Sets the learning rate, turns the gradient of the summed loss into that of the mean, and clips its norm.

        A step whose loss or gradient is not finite is skipped, and so is one with nothing to learn from: the fused
        optimizer looks at `found_inf` on the device and leaves weights, moments and its count of steps alone. The norm
        is global, so all ranks skip alike.
        """
        factor = learning_rate_factor(self.schedule, self.trainer.global_step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        sums = self._take_step()
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        empty = sums["weight"] == 0
        weight = sums["weight"].masked_fill(empty, 1)
        norm = nn.utils.get_total_norm(gradients) / weight
        scale = 1 / weight
        if self.gradient_clip:
            scale = scale * (self.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        bad = ~torch.isfinite(norm + sums["loss"])
        optimizer.found_inf = (bad | empty).float()  # type: ignore[attr-defined]  # what torch's GradScaler sets, too
        self._note_step(sums, norm, bad, empty)

    def _note_step(self, sums: dict[str, Tensor], norm: Tensor, bad: Tensor, empty: Tensor) -> None:
        """A step that is not finite counts its tokens, which were read, and nothing else."""
        self.last_good_step = torch.where(bad, self.last_good_step, self.trainer.global_step + 1)
        good = {name: value.masked_fill(bad, 0) for name, value in {**sums, "grad_norm": norm}.items()}
        steps = {"steps": torch.ones_like(norm), "skipped": bad.float(), "empty": empty.float()}
        self.window_sums.add({**good, "tokens": sums["tokens"], **steps})
        if "moe/load" in sums:
            self.model.update_router_bias(sums["moe/load"], keep=bad | empty)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training"] = {"window": dict(self.window_sums.values), "last_good_step": self.last_good_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.window_sums.values = checkpoint["training"]["window"]
        self.last_good_step = checkpoint["training"]["last_good_step"]

    def on_fit_start(self) -> None:
        """Frozen models are no part of the module, so that no checkpoint or optimizer has them; they go where it is."""
        for frozen in self.objective.frozen.values():
            frozen.to(self.device, self.model.dtype)

    def on_train_start(self) -> None:
        """Only now the module is on its device, whether it was loaded or is new."""
        self.window_sums.values = {name: value.to(self.device) for name, value in self.window_sums.values.items()}
        self.last_good_step = self.last_good_step.to(self.device)

    def validation_step(self, sources: dict[str, Any], batch_idx: int) -> None:
        self.validated = evaluate(self.model, self.objective, sources)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = build_optimizer(self._named_trainable(), self.optim)
        # Float16's scaler would leave the division to the fused step, after the norm was taken and clipped.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer

    def _named_trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
