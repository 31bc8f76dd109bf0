"""Rules across configuration groups; rules within one group are next to its dataclass."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minimind.config.schema import TrainConfig
from minimind.data.config import MixtureConfig, record_kinds
from minimind.model.config import Position
from minimind.parallel.config import Parallelism
from minimind.runs.checkpoints import STATE, TOKENIZER, verified
from minimind.tokenizer.bpe import BPE
from minimind.tracking.config import problems as tracking_problems
from minimind.utils.errors import ConfigError, UserError, suggestion
from minimind.utils.files import file_hash
from minimind.utils.paths import find_existing
from minimind.utils.settings import not_finite
from minimind.utils.terminal import say


def to_config(composed: DictConfig) -> TrainConfig:
    """Convert the composed settings to dataclasses.

    Raises:
        ConfigError: lists every broken rule, within groups and across them.
    """
    infinite = list(not_finite(OmegaConf.to_container(composed)))
    # The groups report these settings again, the model without the name of its group: those problems are dropped.
    keys = [problem.split(" ")[0] for problem in infinite]
    reported = tuple(keys + [key.replace("model.", "") for key in keys])
    found = [*unknown_keys(composed), *infinite]
    objects: dict[str, Any] = {}
    for name in TrainConfig.__dataclass_fields__:
        try:
            node = composed[name]
            unset = OmegaConf.missing_keys(node) if isinstance(node, DictConfig) else set()
            found += [f"`{key}` must be set, but is not; type {key}=…" for key in sorted(unset)]
            objects[name] = OmegaConf.to_object(node) if isinstance(node, DictConfig) and not unset else node
        except ConfigError as error:
            found += [problem for problem in error.problems if not problem.startswith(reported)]
        except OmegaConfBaseException as error:
            found.append(f"`{name}`: {str(error).splitlines()[0]}")
    if found:
        raise ConfigError(found)
    cfg = TrainConfig(**objects)
    if problems := cross_group_problems(cfg):
        raise ConfigError(problems)
    return cfg


def check_numbers(composed: DictConfig, name: str = "") -> None:
    """Raises: ConfigError, if a number is NaN or infinite; for settings that `to_config` does not check."""
    if found := list(not_finite(OmegaConf.to_container(composed), name)):
        raise ConfigError(found)


def check_tokenizer(cfg: TrainConfig) -> None:
    """Check the tokenizer that `tokenizer.path` names, before a corpus is prepared with it.

    Raises:
        UserError: it is not a tokenizer, or has more tokens than the model.
    """
    if cfg.tokenizer.path is None:
        return
    size = BPE.load(find_existing(cfg.tokenizer.path, "tokenizer.path")).vocab_size
    if size > cfg.model.vocab_size:
        raise ConfigError([
            f"The tokenizer must fit `model.vocab_size` ({cfg.model.vocab_size}), but has {size} tokens; "
            f"set model.vocab_size={size}."
        ])  # fmt: skip


def check_same_tokenizer(tokenizer: BPE, resume_from: Path | None, init_from: Path | None) -> None:
    """Check that token ids mean the same text as when the checkpoint's weights were trained.

    A new run with `init_from` may use another tokenizer, with a warning that counts the ids that differ; a resumed run
    may not.

    Raises:
        UserError: the checkpoint that the run resumes from was trained with another tokenizer.
    """
    if resume_from is not None:
        run = resume_from.parent.parent
        if BPE.load(resume_from / TOKENIZER).hash != tokenizer.hash:
            raise UserError(
                f"The tokenizer must be the one that {resume_from} was trained with, but is another, named by a "
                f"setting or trained on other text; run.resume={run} tokenizer.path={run / TOKENIZER} resumes with its "
                f"own tokenizer, and init_from={resume_from} instead of run.resume starts a new run with another."
            )
    elif init_from is not None:
        before, now = (bpe.tokenizer.get_vocab() for bpe in (BPE.load(init_from / TOKENIZER), tokenizer))
        if num_changed := len(set(before.values()) & set(now.values())) - len(before.items() & now.items()):
            say(
                f"Warning: {num_changed:,} of this run's token ids stood for other text when {init_from} was trained; "
                f"tokenizer.path={init_from / TOKENIZER} keeps their meaning.",
                file=sys.stderr,
            )


def check_frozen(tokenizer: BPE, frozen: Mapping[str, Path], status: Mapping[str, Any]) -> dict[str, str]:
    """Check the objective's frozen models; return their sha256, for the run's status.

    Raises:
        UserError: a model has another tokenizer, or has changed since the run was started.
    """
    hashes = {name: file_hash(verified(checkpoint) / STATE) for name, checkpoint in frozen.items()}
    for name, checkpoint in frozen.items():
        if BPE.load(checkpoint / TOKENIZER).hash != tokenizer.hash:
            raise UserError(
                f"The tokenizer of `objective.{name}` ({checkpoint}) must be this run's own, but is another; "
                f"use tokenizer=file tokenizer.path={checkpoint / TOKENIZER}."
            )
        if status.get("frozen", hashes).get(name) != hashes[name]:
            raise UserError(
                f"The checkpoint of `objective.{name}` ({checkpoint}) must be the one that the run was started with, "
                "but has changed; name the old one, or start a separate run with run.tag=…"
            )
    return hashes


def unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Problems with keys that were added with `+` and are in no dataclass: they would otherwise be ignored."""
    known_type = OmegaConf.get_type(node)
    if not is_dataclass(known_type):
        return
    known = [field.name for field in fields(known_type)]
    for key in map(str, node):
        if key not in known:
            yield f"`{prefix}{key}` is not a setting; {suggestion(key, known)}"
        elif not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            yield from unknown_keys(node[key], f"{prefix}{key}.")


def cross_group_problems(cfg: TrainConfig) -> list[str]:
    found = []
    if cfg.trainer.epochs is not None and isinstance(cfg.data, MixtureConfig):
        found.append(
            f"`trainer.epochs` must be null for a mixture, each of whose sources has its own epochs, but is "
            f"{cfg.trainer.epochs}; set trainer.max_steps."
        )
    found += _size_problems(cfg)
    if cfg.parallel.kind is Parallelism.single:
        for name, value in (("trainer.devices", cfg.trainer.devices), ("parallel.num_nodes", cfg.parallel.num_nodes)):
            if value != 1:
                found.append(f"`{name}` must be 1 with parallel=single, but is {value}; use parallel=ddp.")
    longest = cfg.data.sequence_length * max(cfg.evaluation.context_factors, default=1)
    if cfg.model.position is not Position.rope and (cfg.evaluation.yarn or longest > cfg.model.max_position_embeddings):
        found.append(
            f"`evaluation.context_factors` beyond the model's positions, and `evaluation.yarn`, need "
            f"`model.position: rope`, but it is {cfg.model.position.value}."
        )
    found += tracking_problems(cfg.logger.get("watch"), cfg.model.num_experts)
    if "moe_load" in cfg.callbacks and not cfg.model.num_experts:
        found.append("`callbacks` must not have moe_load for a model without experts; leave it out.")
    return found


def _size_problems(cfg: TrainConfig) -> list[str]:
    """Compare records, sequence length, vocabulary and batch with the objective, model and number of processes."""
    found = []
    if refused := sorted(record_kinds(cfg.data) - set(cfg.objective.accepts)):
        found.append(
            f"`objective={cfg.objective.kind}` must have records of {' or '.join(cfg.objective.accepts)}, but "
            f"data={cfg.data.kind} has {' and '.join(refused)}; choose other data or another objective."
        )
    context = cfg.model.context_length
    length, tokens = cfg.data.sequence_length, cfg.trainer.batch_tokens
    if length > context:
        found.append(
            f"`data.sequence_length` must be at most what the model allows, `model.max_position_embeddings` "
            f"({context}), but is {length}; shorten it or raise the model's."
        )
    if cfg.tokenizer.vocab_size > cfg.model.vocab_size:
        found.append(
            f"`tokenizer.vocab_size` must be at most `model.vocab_size` ({cfg.model.vocab_size}), "
            f"but is {cfg.tokenizer.vocab_size}; change either."
        )
    multiple = length * cfg.num_processes * (cfg.trainer.micro_batch or 1)
    if tokens % multiple:
        nearest = max(1, round(tokens / multiple)) * multiple
        found.append(
            f"`trainer.batch_tokens` must be a multiple of data.sequence_length × trainer.devices × "
            f"parallel.num_nodes × trainer.micro_batch ({multiple}), but is {tokens}; {nearest} is the nearest."
        )
    return found
