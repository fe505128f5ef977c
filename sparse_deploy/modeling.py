# SPDX-License-Identifier: Apache-2.0
"""Opens a checkpoint as a PyTorch model of a task, with the same checks in every stage."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sparse_deploy.architectures import Architecture, architecture_of, is_buffer
from sparse_deploy.data.labels import have_names, model_labels
from sparse_deploy.data.tasks import KINDS, Head, Task, TaskKind
from sparse_deploy.errors import CheckpointError, ConfigError, one_line

Note = Callable[[str], None]


def load_finetuned(
    folder: Path, kind: TaskKind, *, allow_pickle: bool = False, note: Note = lambda message: None
) -> PreTrainedModel:
    """Load a model that has everything its task needs: FP32, eval mode, eager attention.

    Eager attention is plain MatMul and Softmax, which export keeps unchanged.

    Args:
        folder: a resolved checkpoint.
        kind: kind of the task.
        allow_pickle: accept ``pytorch_model.bin``; it is read with ``weights_only=True``.
        note: called with a sentence if the checkpoint has heads that the task does not use.

    Raises:
        CheckpointError: the weights can't be loaded, lack a part of the model such as its head, or have other parts.
        ConfigError: transformers has no model of this type for the task.
    """
    model, report = _load(folder, kind, allow_pickle=allow_pickle, attn_implementation="eager")
    _check_unused(folder, model, report, note)
    missing = sorted(report["missing_keys"])
    if KINDS[kind].head is Head.NONE:  # the output is computed from token vectors, without the class's pooler
        missing = [name for name in missing if "pooler" not in name.split(".")]
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # the quantizer fails on a product with an unused result
    if missing:
        raise CheckpointError(
            f"{folder}: expected all weights of a {kind} model, {len(missing)} are missing (first: {missing[0]!r}); "
            f"fine-tune first: sparse-deploy finetune -c RECIPE"
        )
    return model.eval()


def load_for_training(
    folder: Path,
    task: Task,
    *,
    dropout: float | None = None,
    allow_pickle: bool = False,
    note: Note = lambda message: None,
) -> PreTrainedModel:
    """Load an encoder, with or without a head, as a model with the head, labels and names of the task.

    A head that is missing, or has another size or other labels, is initialized at random.

    Args:
        folder: a resolved checkpoint.
        task: the task, which determines the class, the number of labels and their names.
        dropout: overrides the dropout keys of the family (see :class:`Architecture`).
        allow_pickle: as in :func:`load_finetuned`.
        note: as in :func:`load_finetuned`.

    Raises:
        CheckpointError: encoder weights are missing, of another shape, or unknown.
        ConfigError: the family has no dropout key.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: config.json can't be used: {one_line(error)}") from error
    own_labels = model_labels(config.to_dict())
    config.finetuning_task = task.name
    task.configure(config)
    architecture = architecture_of(config.to_dict())
    if dropout is not None:
        _set_dropout(config, architecture, dropout)
    model, report = _load(folder, task.kind, allow_pickle=allow_pickle, config=config, ignore_mismatched_sizes=True)
    absent = [name for name in [*report["missing_keys"], *_mismatched(report)] if not architecture.in_head(name)]
    if absent:
        raise CheckpointError(
            f"{folder}: expected the encoder of a {type(model).__name__}, {absent[0]} is missing or of another shape "
            f"({len(absent)} such weights); config.json and the weights are of two models, or the copy is incomplete"
        )
    _check_unused(folder, model, report, note)
    wanted = tuple(task.model_labels or task.labels)
    if have_names(own_labels) and wanted and own_labels != wanted:
        # A head that was trained on other labels must not be used with new names.
        _start_head_anew(model, architecture)
        note(f"the head is initialized again: the model's labels were {', '.join(own_labels[:5])}")
    return model


def _start_head_anew(model: PreTrainedModel, architecture: Architecture) -> None:
    for name, module in model.named_modules():
        if architecture.in_head(name) and "pooler" not in name.split("."):
            for parameter in module.parameters(recurse=False):
                torch.nn.init.normal_(parameter, std=getattr(model.config, "initializer_range", 0.02))
            if getattr(module, "bias", None) is not None:
                torch.nn.init.zeros_(module.bias)


def load_as_saved(folder: Path, *, allow_pickle: bool = False) -> PreTrainedModel:
    """Load a checkpoint with its head, by the class in its config: FP32, eval mode.

    An encoder without a pooler (such as sentence encoders) gets none.

    Args:
        folder: a resolved checkpoint.
        allow_pickle: as in :func:`load_finetuned`.

    Raises:
        CheckpointError: the weights can't be loaded or are incomplete.
        ConfigError: transformers has no such class.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: config.json can't be used: {one_line(error)}") from error
    name = next(iter(config.architectures or []), None)
    found = getattr(transformers, name, None) if name else AutoModel
    if not (isinstance(found, type) and (found is AutoModel or issubclass(found, PreTrainedModel))):
        raise ConfigError(f"{folder}: transformers has no model class {name!r}, which the config names; correct it")
    model, report = _load_with(found, folder, allow_pickle=allow_pickle)
    missing = sorted(report["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None
    elif missing:
        raise CheckpointError(
            f"{folder}: expected all weights of a {type(model).__name__}, {len(missing)} are missing (first: "
            f"{missing[0]!r}); copy the checkpoint again"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_teacher(folder: Path, task: Task, *, allow_pickle: bool = False) -> PreTrainedModel:
    """Load a model that is fine-tuned on the task, as a teacher.

    Raises:
        ConfigError: the model has no head of this task.
    """
    try:
        return load_finetuned(folder, task.kind, allow_pickle=allow_pickle)
    except CheckpointError as error:
        raise ConfigError(f"distillation.teacher: expected a model fine-tuned on {task.name}: {error}") from error


def _load(
    folder: Path, kind: TaskKind, *, allow_pickle: bool, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    from optimum.exporters.tasks import TasksManager

    auto = TasksManager.get_model_class_for_task(str(KINDS[kind].head), framework="pt", library="transformers")
    try:
        return _load_with(auto, folder, allow_pickle=allow_pickle, **options)
    except ValueError as error:
        raise ConfigError(f"{folder}: no {kind} model of this type: {one_line(error)}") from error


def _load_with(
    auto: Any, folder: Path, *, allow_pickle: bool, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        with _quiet():
            model, report = auto.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=None if allow_pickle else True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                disable_mmap=True,  # with a mapped file, a write to it would change the weights or end the process
                **options,
            )
    except ValueError:
        raise
    except Exception as error:  # safetensors, pickle and transformers raise their own classes
        raise CheckpointError(f"{folder}: the model can't be loaded: {one_line(error)}; copy it again") from error
    return model, report


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Disable transformers' report of randomly initialized weights; this module raises errors if necessary."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _check_unused(folder: Path, model: PreTrainedModel, report: dict[str, Any], note: Note) -> None:
    """Weights without a matching parameter: weights of known heads are reported, others are refused.

    Raises:
        CheckpointError: there are other weights.
    """
    architecture = architecture_of(model.config.to_dict())
    unused = sorted(name for name in report["unexpected_keys"] if not is_buffer(name))
    unknown = [name for name in unused if not architecture.in_head(name)]
    if unknown:
        raise CheckpointError(
            f"{folder}: {len(unknown)} weights belong to no part of a {type(model).__name__} with this config "
            f"({_some(unknown)}); the config names another class or fewer layers than the checkpoint has, or remove "
            f"them from the file"
        )
    if unused:
        note(f"not used: {len(unused)} weights of heads that this task does not have ({_some(unused)})")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _set_dropout(config: PretrainedConfig, architecture: Architecture, dropout: float) -> None:
    keys = [key for key in architecture.dropout if hasattr(config, key)]
    if not keys:
        raise ConfigError(
            f"model.dropout: {architecture.title} has no dropout key in this package; omit it, or set the "
            f"keys of its config.json"
        )
    for key in keys:
        setattr(config, key, dropout)


def _mismatched(report: dict[str, Any]) -> list[str]:
    return [entry if isinstance(entry, str) else str(entry[0]) for entry in report["mismatched_keys"]]
