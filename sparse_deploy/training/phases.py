# SPDX-License-Identifier: Apache-2.0
"""The two phases of a fine-tuning, normal and quantization-aware, and the state stored between them.

The training folder has ``checkpoint-N`` of the normal phase, then ``qat-start`` (the weights between the phases) and
``qat/checkpoint-N``.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from torch import distributed
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparse_deploy.activation_ranges import read_ranges
from sparse_deploy.artifacts import write_json_atomically
from sparse_deploy.config.schema import FinetuneSection, QatSection, Recipe, SparsityMode
from sparse_deploy.sparsity.weight_grid import GRIDS
from sparse_deploy.training.fake_quantization import FakeQuantization, FakeQuantizationCallback, token_linear_names
from sparse_deploy.training.losses import Loss
from sparse_deploy.training.resume import QAT_FOLDER, QAT_START, drop_checkpoints, mark_complete
from sparse_deploy.training.trainer import Progress, TrainingOutcome, train

_OUTCOME_FILE = "normal_phase.json"


@dataclass(frozen=True)
class PhasesOutcome:
    """Result of a run of one or two phases.

    Attributes:
        normal: result of the phase without fake quantization; no steps if the recipe omits it.
        qat: result of the quantization-aware phase, if there was one.
        fake: the fake quantization, detached, with its ranges.
        start: folder with the initial weights of the quantization-aware phase.
    """

    normal: TrainingOutcome
    qat: TrainingOutcome | None = None
    fake: FakeQuantization | None = None
    start: Path | None = None

    @property
    def last(self) -> TrainingOutcome:
        """The result of the last phase."""
        return self.qat or self.normal

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped the run; a resumable checkpoint is in the training folder."""
        return self.last.interrupted


def train_phases(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_features: Any,
    recipe: Recipe,
    folder: Path,
    *,
    teacher: PreTrainedModel | None = None,
    resume_from: Path | None = None,
    progress: Progress = lambda message, share: None,
    loss: Loss | None = None,
) -> PhasesOutcome:
    """Fine-tune ``model`` in place, with a quantization-aware phase at the end if the recipe has one.

    Args:
        model: the student.
        tokenizer: tokenizer that pads batches.
        train_features: as for :func:`sparse_deploy.training.trainer.train`.
        recipe: settings of both phases; `quantization.target_cpu` is not `auto`.
        folder: the training folder.
        teacher: teacher for distillation, in both phases.
        resume_from: result of :func:`sparse_deploy.training.resume.open_run`.
        progress: called with a message and the share of the steps of both phases.
        loss: loss of the labels, instead of the model's.

    Raises:
        ConfigError: the model has no layer to quantize.
        SparsityLostError: a pruned weight changed.
    """
    qat = recipe.finetune.qat
    if qat is None:
        normal = train(
            model, tokenizer, train_features, recipe, folder,
            teacher=teacher, resume_from=resume_from, progress=progress, loss=loss,
        )  # fmt: skip
        return PhasesOutcome(normal)
    qat_recipe = _recipe_of_phase(recipe, qat)
    # Checked before the training.
    layers = token_linear_names(model, recipe.quantization.exclude)
    begin = _share_of_normal_phase(recipe.finetune, qat_recipe.finetune, len(train_features))
    start = folder / QAT_START
    if resume_from is not None and (resume_from == start or resume_from.parent == folder / QAT_FOLDER):
        normal = _load_start(model, start)
    else:
        normal = TrainingOutcome(interrupted=False, steps=0, zeros={}, history=[])
        if recipe.finetune.max_steps != 0:
            normal = train(
                model, tokenizer, train_features, recipe, folder,
                teacher=teacher, resume_from=resume_from,
                progress=lambda message, share: progress(message, begin * share), loss=loss,
            )  # fmt: skip
        if normal.interrupted:
            return PhasesOutcome(normal)
        _write_start(model, normal, folder)
        resume_from = start
    fake = FakeQuantization(model, layers, GRIDS[recipe.quantization.target_cpu])
    if ranges := read_ranges(resume_from):
        fake.restore(ranges)
    with fake.attached():
        outcome = train(
            model, tokenizer, train_features, qat_recipe, folder / QAT_FOLDER,
            teacher=teacher, resume_from=resume_from if resume_from != start else None,
            progress=lambda message, share: progress(f"fake INT8, {message}", begin + (1 - begin) * share),
            extra_callbacks=[FakeQuantizationCallback(fake, qat.observe_steps)], loss=loss,
        )  # fmt: skip
    return PhasesOutcome(normal, outcome, fake, start)


def planned_steps(settings: FinetuneSection, examples: int) -> int:
    """Number of optimizer steps of a phase, equal to the Trainer's."""
    if settings.max_steps >= 0:
        return settings.max_steps
    batches = math.ceil(examples / (settings.train_batch_size * int(os.environ.get("WORLD_SIZE", "1"))))
    return math.ceil(settings.epochs * math.ceil(batches / settings.gradient_accumulation_steps))


def _share_of_normal_phase(normal: FinetuneSection, qat: FinetuneSection, examples: int) -> float:
    first, second = planned_steps(normal, examples), planned_steps(qat, examples)
    return first / max(first + second, 1)


def _recipe_of_phase(recipe: Recipe, qat: QatSection) -> Recipe:
    """The recipe with the settings of the quantization-aware phase; the current zeros are locked."""
    changes = qat.model_dump(exclude={"observe_steps"})
    sparsity = recipe.sparsity
    if sparsity.mode is not SparsityMode.NONE:
        sparsity = sparsity.model_copy(update={"mode": SparsityMode.LOCK})
    finetune = recipe.finetune.model_copy(update={**changes, "qat": None})
    return recipe.model_copy(update={"finetune": finetune, "sparsity": sparsity})


def _load_start(model: PreTrainedModel, start: Path) -> TrainingOutcome:
    load_model(model, start / "model.safetensors")
    return TrainingOutcome(False, zeros={}, **json.loads((start / _OUTCOME_FILE).read_text(encoding="utf-8")))


def _write_start(model: PreTrainedModel, outcome: TrainingOutcome, folder: Path) -> None:
    """Store the weights between the phases, and remove the checkpoints of the normal phase."""
    if int(os.environ.get("RANK", "0")) == 0:
        start = folder / QAT_START
        shutil.rmtree(start, ignore_errors=True)
        model.save_pretrained(start)
        write_json_atomically(start / _OUTCOME_FILE, {"steps": outcome.steps, "history": outcome.history})
        mark_complete(start)
        drop_checkpoints(folder)
    if distributed.is_initialized():
        distributed.barrier()
