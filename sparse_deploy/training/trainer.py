# SPDX-License-Identifier: Apache-2.0
"""Builds and runs one fine-tuning: arguments from the recipe, ordered callbacks, prediction."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model
from torch import nn
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from sparse_deploy.config.schema import FinetuneSection, Recipe, SparsityMode
from sparse_deploy.data.batches import pad_batch, run_by_length
from sparse_deploy.data.tasks import Task
from sparse_deploy.pruning.method import prunable_parameters, zero_masks_of
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.training.distillation import SparseTrainer
from sparse_deploy.training.losses import Loss
from sparse_deploy.training.mask_lock import (
    MASK_FILE,
    MaskLock,
    MaskLockCallback,
    load_masks,
)
from sparse_deploy.training.pruning_schedule import GradualPruningCallback, ScheduledPruner
from sparse_deploy.training.resume import CompletenessCallback, InterruptCallback, state_if_finished

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class TrainingOutcome:
    """Result of a run.

    Attributes:
        interrupted: whether a signal stopped the run; a resumable checkpoint is in the training folder.
        steps: number of optimizer steps since the start of the run.
        zeros: the enforced zero masks at the end.
        history: the Trainer's log entries (loss, learning rate, gradient norm).
    """

    interrupted: bool
    steps: int
    zeros: dict[str, BoolArray]
    history: list[dict[str, Any]]


def initial_masks(model: nn.Module, recipe: Recipe, pruner: ScheduledPruner | None) -> dict[str, BoolArray]:
    """The initial zero masks of a run: those of the checkpoint, plus the new zeros of a one-shot schedule."""
    sparsity = recipe.sparsity
    if sparsity.mode is SparsityMode.NONE:
        return {}
    if pruner is not None and sparsity.schedule == "one-shot":
        return pruner.prune(sparsity.target)
    return zero_masks_of(prunable_parameters(model, sparsity.exclude))


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_features: Any,
    recipe: Recipe,
    folder: Path,
    *,
    teacher: PreTrainedModel | None = None,
    resume_from: Path | None = None,
    progress: Progress = lambda message, share: None,
    extra_callbacks: Sequence[TrainerCallback] = (),
    loss: Loss | None = None,
) -> TrainingOutcome:
    """Fine-tune ``model`` in place.

    Args:
        model: the student; in ``lock`` mode its zeros are the mask.
        tokenizer: tokenizer that pads batches.
        train_features: a ``datasets.Dataset`` with model inputs, labels and ``length``.
        recipe: the settings.
        folder: folder of the Trainer's checkpoints.
        teacher: teacher for distillation.
        resume_from: a complete checkpoint of the same run.
        progress: called with a message and the completed share of the steps.
        extra_callbacks: callbacks that run before the mask lock's.
        loss: loss of the labels, instead of the model's.

    Raises:
        SparsityLostError: a pruned weight changed.
    """
    parameters = prunable_parameters(model, recipe.sparsity.exclude)
    pruner = ScheduledPruner.of(recipe, model, parameters, train_features, tokenizer)
    if resume_from is not None and (resume_from / MASK_FILE).is_file():
        recorded = load_masks(resume_from, parameters)
        if recipe.sparsity.mode is SparsityMode.LOCK:
            assert_zeros_kept(f"resume from {resume_from.name}", zero_masks_of(parameters), recorded)
        lock = MaskLock(parameters, recorded)
    else:
        lock = MaskLock(parameters, initial_masks(model, recipe, pruner))
    if resume_from is not None and (finished := state_if_finished(resume_from)):
        load_model(model, resume_from / "model.safetensors")
        lock.verify(f"resume from {resume_from.name}")
        return TrainingOutcome(False, finished["global_step"], lock.zeros, finished["log_history"])
    interrupt = InterruptCallback()
    callbacks: list[TrainerCallback] = [*extra_callbacks, ProgressCallback(progress), interrupt]
    if recipe.sparsity.mode is not SparsityMode.NONE:
        callbacks.append(MaskLockCallback(lock))
    if pruner is not None and recipe.sparsity.schedule == "gradual":
        callbacks.append(GradualPruningCallback(lock, pruner, recipe.sparsity))
    callbacks.append(CompletenessCallback())
    trainer = SparseTrainer(
        model=model,
        args=training_arguments(recipe.finetune, folder),
        train_dataset=train_features,
        data_collator=_collator(tokenizer, train_features),
        loss=loss,
        teacher=teacher,
        distillation=recipe.distillation,
        callbacks=callbacks,
    )
    for printing in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"]:
        trainer.remove_callback(printing)
    with interrupt.handling_signals():
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    # Accelerate keeps its autocast around forward(); without this, evaluation after a bf16 run would be bf16, too.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return TrainingOutcome(
        interrupted=interrupt.interrupted and trainer.state.global_step < trainer.state.max_steps,
        steps=trainer.state.global_step,
        zeros=lock.zeros,
        history=trainer.state.log_history,
    )


def _collator(tokenizer: PreTrainedTokenizerBase, rows: Any) -> Any:
    """Pads inputs, and labels if a row has one per token."""
    labels = rows[0].get("labels")
    per_token = isinstance(labels, list) and len(labels) == len(rows[0]["input_ids"]) and isinstance(labels[0], int)
    return DataCollatorForTokenClassification(tokenizer) if per_token else DataCollatorWithPadding(tokenizer)


def training_arguments(settings: FinetuneSection, folder: Path) -> TrainingArguments:
    """The recipe's ``finetune`` section as ``transformers.TrainingArguments``.

    Args:
        settings: settings with the precision of :func:`sparse_deploy.training.precision.choose_precision`.
        folder: folder of the Trainer's checkpoints.
    """
    on_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.train_batch_size,
        per_device_eval_batch_size=settings.eval_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=settings.warmup if settings.warmup < 1 else int(settings.warmup),
        bf16=settings.precision == "bf16",
        seed=settings.seed,
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        save_strategy="steps",
        save_steps=settings.save_steps,
        # Two, so that one complete checkpoint remains after a kill during the writing of the newest.
        save_total_limit=2,
        logging_steps=settings.logging_steps,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        dataloader_pin_memory=not on_cpu,
        # True would multiply a per-batch mean by the number of processes (see SparseTrainer.loss_is_scaled_for_ga).
        average_tokens_across_devices=False,
        disable_tqdm=True,
        report_to="none",
        logging_nan_inf_filter=False,
    )


@torch.inference_mode()
def predict(
    model: PreTrainedModel, features: Sequence[dict[str, np.ndarray]], task: Task, *, batch_size: int
) -> list[tuple[np.ndarray, ...]]:
    """Outputs of every feature in FP32, batched by length.

    Args:
        model: a model of the task.
        features: unpadded 1-D inputs.
        task: the task, which defines the outputs.
        batch_size: examples per batch.

    Returns:
        One array per feature and output, without padding.
    """
    model.eval()
    pad_id = int(getattr(model.config, "pad_token_id", None) or 0)

    def run(batch: dict[str, np.ndarray]) -> list[np.ndarray]:
        result = model(**{name: torch.from_numpy(array).to(model.device) for name, array in batch.items()})
        return [result[output.name].float().cpu().numpy() for output in task.outputs]

    return run_by_length(
        run,
        lambda chosen: pad_batch([features[index] for index in chosen], pad_id),
        [len(feature["input_ids"]) for feature in features],
        batch_size,
        task.per_token,
    )


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Reports the progress of the run, with the last loss."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._loss = ""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the newest loss."""
        if logs and "loss" in logs:
            self._loss = f", loss {float(logs['loss']):.3f}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the step."""
        if state.is_world_process_zero:
            done = state.global_step / state.max_steps
            self._progress(f"step {state.global_step}/{state.max_steps}{self._loss}", done)
