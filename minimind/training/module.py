"""The one LightningModule: it runs an objective on a model, and divides by the tokens of the global batch."""

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from minimind.data.packing import Batch
from minimind.evaluation.text_loss import TextLoss
from minimind.model.moe import Router
from minimind.model.moe_losses import updated_bias
from minimind.model.transformer import MiniMind
from minimind.objectives.cross_entropy import cross_entropy_sum
from minimind.objectives.pretrain import logits_of, pretrain
from minimind.objectives.protocol import Loss, Objective
from minimind.optim.build import build_optimizer
from minimind.optim.config import OptimConfig, ScheduleConfig
from minimind.optim.schedules import learning_rate_factor
from minimind.parallel.collectives import sum_over_ranks

OBJECTIVES: dict[str, Objective] = {"pretrain": pretrain}


class Sums:
    """What is added up on the device between two log points, so that no step waits for a figure."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            if name in self.values:
                self.values[name].add_(value.detach())
            else:
                self.values[name] = value.detach().clone()

    def take(self) -> dict[str, Tensor]:
        taken, self.values = self.values, {}
        return taken


class TrainingModule(pl.LightningModule):
    """Trains `model`; the loss stays a sum until the gradient is divided by the tokens of the global batch.

    Lightning divides what `training_step` returns by the accumulation, and DDP averages gradients over the ranks;
    a constant undoes both. So the result is the same however a batch is cut into micro-batches and ranks.
    """

    def __init__(
        self,
        model: MiniMind,
        *,
        objective: str,
        optim: OptimConfig,
        schedule: ScheduleConfig,
        gradient_clip: float,
        token_bytes: Tensor,
        sources: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = OBJECTIVES[objective]
        self.optim = optim
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.validation = TextLoss(token_bytes)
        # of each source of a mixture beside that of all; one source has nothing to add
        names = sources if len(sources) > 1 else ()
        self.source_names = list(names)
        metrics = nn.ModuleList(TextLoss(token_bytes) for _ in names)
        self.source_validations: Sequence[TextLoss] = metrics  # type: ignore[assignment]
        self.routers = [module for module in model.modules() if isinstance(module, Router)]
        self.step_tokens: Tensor | None = None  # real tokens of this rank since the last optimizer step
        self.step_load: Tensor | None = None  # (layers, E), for the same
        self.window = Sums()  # since the last log point

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.objective(self.model, batch)
        self._count(loss)
        total = loss.loss if loss.auxiliary is None else loss.loss + loss.auxiliary
        undo = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return total if undo == 1 else total * undo

    def _count(self, loss: Loss) -> None:
        tokens = loss.num_tokens
        self.step_tokens = tokens if self.step_tokens is None else self.step_tokens + tokens
        self.window.add(loss=loss.loss, tokens=tokens)
        if loss.experts is not None:
            load = loss.experts.load
            self.step_load = load if self.step_load is None else self.step_load + load
            self.window.add(balance_loss=loss.experts.balance_loss, expert_load=load)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        factor = learning_rate_factor(self.schedule, self.trainer.global_step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Turns the gradient of the summed loss into that of the mean, and clips its norm, in one pass."""
        tokens = self._over_ranks(self.step_tokens)
        self.step_tokens = None
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) / tokens
        scale = 1 / tokens
        if self.gradient_clip:
            scale = scale * (self.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        self.window.add(grad_norm=norm, steps=torch.ones_like(norm))
        if self.step_load is not None:
            self._balance_routers(self._over_ranks(self.step_load))
            self.step_load = None

    def _balance_routers(self, load: Tensor) -> None:
        for router, layer_load in zip(self.routers, load, strict=True):
            if router.selection_bias is not None:
                rate = self.model.config.router_bias_update_rate
                router.selection_bias.copy_(updated_bias(router.selection_bias, layer_load, rate))

    def _over_ranks(self, value: Tensor | None) -> Tensor:
        assert value is not None, "no training step since the last optimizer step"
        return sum_over_ranks(value)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        loss = cross_entropy_sum(logits_of(self.model, batch).logits, batch.labels)
        self.validation.update(loss, batch.labels)
        if self.source_names:
            self.source_validations[dataloader_idx].update(loss, batch.labels)

    def take_validation(self) -> dict[str, float]:
        """The figures of the validation that has ended, over all text and of each source of a mixture."""
        named = zip(self.source_names, self.source_validations, strict=True)
        figures = {f"val/{name}": value for name, value in self.validation.compute().items()}
        self.validation.reset()
        for source, metric in named:
            of_source = metric.compute()
            metric.reset()
            figures |= {f"val/{source}/{name}": of_source[name] for name in ("loss", "bits_per_byte")}
        return figures

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self._named_trainable(), self.optim)

    def _named_trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
