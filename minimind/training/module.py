"""The one LightningModule: it runs an objective on a model, and divides by the tokens of the global batch."""

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from minimind.data.packing import Batch
from minimind.evaluation.text_loss import TextLoss
from minimind.model.losses import cross_entropy_sum, updated_bias
from minimind.model.moe import Router
from minimind.model.transformer import MiniMind
from minimind.objectives.pretrain import logits_of, pretrain
from minimind.objectives.protocol import Loss, Objective
from minimind.optim.build import build_optimizer
from minimind.optim.config import OptimConfig, ScheduleConfig
from minimind.optim.schedules import learning_rate_factor
from minimind.parallel.collectives import sums_over_ranks
from minimind.training.sums import Sums

OBJECTIVES: dict[str, Objective] = {"pretrain": pretrain}


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
        self.step = Sums()  # of this rank, since the last optimizer step
        self.window = Sums()  # of all ranks, since the last log point
        self.last_good_step = torch.zeros((), dtype=torch.long)  # the last whose loss and gradient were finite

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes 36 times a step which hook it is in, and a module takes long to set an attribute."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.objective(self.model, batch)
        self._count(loss)
        total = loss.loss if loss.auxiliary is None else loss.loss + loss.auxiliary
        undo = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return total if undo == 1 else total * undo

    def _count(self, loss: Loss) -> None:
        self.step.add(loss=loss.loss, tokens=loss.num_tokens)
        if loss.experts is not None:
            self.step.add(balance_loss=loss.experts.balance_loss, expert_load=loss.experts.load)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        factor = learning_rate_factor(self.schedule, self.trainer.global_step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Turns the gradient of the summed loss into that of the mean, and clips its norm, in one pass.

        A step whose loss or gradient is not finite is skipped: the fused optimizer looks at `found_inf` on the device
        and leaves weights, moments and its count of steps alone. The norm is global, so all ranks skip alike.
        """
        sums = sums_over_ranks(self.step.take())
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) / sums["tokens"]
        scale = 1 / sums["tokens"]
        if self.gradient_clip:
            scale = scale * (self.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        bad = ~torch.isfinite(norm + sums["loss"])
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # what torch's GradScaler sets, too
        self._note_step(sums, norm, bad)

    def _note_step(self, sums: dict[str, Tensor], norm: Tensor, bad: Tensor) -> None:
        """A bad step counts its tokens, which were read, and nothing else."""
        self.last_good_step = torch.where(bad, self.last_good_step, self.trainer.global_step + 1)
        counted = {**sums, "grad_norm": norm}
        counted["good_tokens"] = counted.pop("tokens")
        self.window.add(
            tokens=sums["tokens"],
            steps=torch.ones_like(norm),
            skipped=bad.float(),
            **{name: value.masked_fill(bad, 0) for name, value in counted.items()},
        )
        if "expert_load" in sums:
            self._balance_routers(sums["expert_load"], bad)

    def _balance_routers(self, load: Tensor, bad: Tensor) -> None:
        for router, layer_load in zip(self.routers, load, strict=True):
            bias = router.selection_bias
            if bias is not None:
                updated = updated_bias(bias, layer_load, self.model.config.router_bias_update_rate)
                bias.copy_(torch.where(bad, bias, updated))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training"] = {"window": dict(self.window.values), "last_good_step": self.last_good_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.window.values = checkpoint["training"]["window"]
        self.last_good_step = checkpoint["training"]["last_good_step"]

    def on_train_start(self) -> None:
        """Only now the module is on its device, whether it was loaded or is new."""
        self.window.values = {name: value.to(self.device) for name, value in self.window.values.items()}
        self.last_good_step = self.last_good_step.to(self.device)

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
        optimizer = build_optimizer(self._named_trainable(), self.optim)
        # Float16's scaler would leave the division to the fused step, after the norm was taken and clipped.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer

    def _named_trainable(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
