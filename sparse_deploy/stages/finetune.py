# SPDX-License-Identifier: Apache-2.0
"""Stage 1: makes a fine-tuned checkpoint with checked zeros from a checkpoint and a recipe."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import distributed
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from sparse_deploy.architectures import check_length, read_config
from sparse_deploy.artifact_target import check_writable_target
from sparse_deploy.artifacts import Manifest, seal, staged_folder
from sparse_deploy.checkpoint import ResolvedCheckpoint, parameter_count, resolve_checkpoint, zero_masks
from sparse_deploy.config.schema import Int8Mode, Recipe, SparsityMode
from sparse_deploy.config.writer import recipe_text
from sparse_deploy.data.features import load_tokenizer, tokenize_training
from sparse_deploy.data.loading import load_split
from sparse_deploy.data.metrics import score_split
from sparse_deploy.data.own_data import describe_split
from sparse_deploy.data.resolve import task_to_train
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import ConfigError
from sparse_deploy.evaluation.accuracy import ValidationSplit, load_validation
from sparse_deploy.export.exportable import check_exportable
from sparse_deploy.modeling import load_finetuned, load_for_training, load_teacher
from sparse_deploy.pruning.method import prunable_parameters, zero_masks_of
from sparse_deploy.publishing import only_writer
from sparse_deploy.sparsity.contract import check_promise
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.statistics import record_masks
from sparse_deploy.stages.target_cpu import with_target_cpu
from sparse_deploy.stages.torch_threads import limit_torch_threads
from sparse_deploy.training.distillation import check_teacher
from sparse_deploy.training.losses import task_loss
from sparse_deploy.training.phases import PhasesOutcome, train_phases
from sparse_deploy.training.precision import TrainingPrecision, choose_precision
from sparse_deploy.training.resume import open_run
from sparse_deploy.training.trainer import predict

Progress = Callable[[str, float], None]
_LOG = logging.getLogger(__name__)
# The checkpoint's recipe, which can be used for another `finetune -c`.
RECIPE_FILE = "recipe.yaml"


def finetune(
    recipe: Recipe,
    output: Path,
    *,
    data_dir: Path | None = None,
    restart: bool = False,
    allow_pickle: bool = False,
    progress: Progress = lambda message, share: None,
) -> Manifest | None:
    """Fine-tune with a recipe and write a Hugging Face folder with a manifest.

    Under ``torchrun`` every process calls this; process 0 writes.

    Args:
        recipe: model, task, zeros, training.
        output: the new checkpoint folder; the training state is in ``<output>.training`` until the run ends.
        data_dir: folder with the task's text; default: the hub.
        restart: discard the state of an interrupted run instead of resuming.
        allow_pickle: accept a source checkpoint without safetensors.
        progress: called with a message and a share between 0 and 1.

    Returns:
        The manifest; None on processes other than 0.

    Raises:
        ConfigError: for example, another process trains for the same output.
        KeyboardInterrupt: stopped by a signal, after a resumable checkpoint was written.
        SparseDeployError: see the subclasses.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    check_writable_target(output, "checkpoint")
    _check_qat(recipe)
    recipe = with_target_cpu(recipe)
    precision = _training_precision(recipe, progress)
    progress("loading model and text", 0.0)
    limit_torch_threads("finetune", lambda line: progress(line, 0.0))
    _check_model(recipe)
    source = resolve_checkpoint(recipe.model.name_or_path, recipe.model.revision, allow_pickle=allow_pickle)
    check_writable_target(output, "checkpoint", [source.folder])
    check_length(read_config(source.folder), recipe.data.max_length, recipe.model.name_or_path)
    task = task_to_train(recipe, source.folder)
    recipe = _with_task(recipe, task)
    # Loaded before the first step, so that missing or bad rows are found before the training.
    validation = load_validation(task, recipe.data, source.folder, data_dir, note=lambda line: progress(line, 0.0))
    torch.manual_seed(recipe.finetune.seed)  # the new head's weights
    model = load_for_training(
        source.folder,
        task,
        dropout=recipe.model.dropout,
        allow_pickle=allow_pickle,
        note=lambda message: progress(message, 0.0),
    )
    if _is_main_process():
        progress("testing whether the model can be exported", 0.0)
        check_exportable(model, task.output_names, recipe.export.opset)
    tokenizer = load_tokenizer(source.folder)
    if recipe.sparsity.mode is SparsityMode.LOCK:
        check_promise(zero_masks_of(prunable_parameters(model, recipe.sparsity.exclude)), recipe.sparsity)
    teacher = _load_teacher(recipe, task, model, allow_pickle=allow_pickle)
    notes: list[str] = []
    rows = load_split(
        task,
        task.train_split,
        data_dir,
        data=recipe.data,
        limit=recipe.data.train_samples,
        shuffle_seed=recipe.finetune.seed,
        note=notes.append,
    )
    features = tokenize_training(task, rows, tokenizer, recipe.data)
    weighed = recipe.finetune.class_weights != "none"
    state_folder = output.with_name(output.name + ".training")
    # Two runs must not write the same checkpoints; process 0 of a run locks the folder.
    with only_writer(state_folder) if _is_main_process() else contextlib.nullcontext():
        resume_from = _open_run_once(state_folder, _fingerprint(recipe, source, data_dir, len(features)), restart)
        outcome = train_phases(
            model, tokenizer, features, _in_precision(recipe, precision), state_folder,
            teacher=teacher, resume_from=resume_from, progress=progress,
            loss=task_loss(task, recipe.finetune.class_weights, features["labels"] if weighed else ()),
        )  # fmt: skip
        if outcome.interrupted:
            raise KeyboardInterrupt
        if not _is_main_process():
            return None
        _check_outcome(model, recipe, outcome)
        progress("evaluating", 1.0)

        def metrics_of(evaluated: PreTrainedModel) -> dict[str, float]:
            return evaluate(evaluated, validation, task, recipe)

        details = _details(model, task, outcome, metrics_of)
        details |= {"task": task.kind.value, "labels": list(task.model_labels or task.labels), "rows_left_out": notes}
        if recipe.data.source:
            details["validation"] = describe_split(recipe.data)
        details["precision"] = {"chosen": precision.name, "reason": precision.reason}
        manifest = _write(model, tokenizer, recipe, task, source, outcome, details, output)
        shutil.rmtree(state_folder, ignore_errors=True)
        return manifest


def evaluate(
    model: PreTrainedModel, validation: Sequence[ValidationSplit], task: Task, recipe: Recipe
) -> dict[str, float]:
    """Task metrics of a PyTorch model over the validation split(s), named as ``bench`` names them."""
    metrics: dict[str, float] = {}
    for split in validation:
        outputs = predict(model, split.encoded.features, task, batch_size=recipe.finetune.eval_batch_size)
        score = score_split(task, split.encoded, outputs, recipe.data)
        metrics |= {split.qualified(name): value for name, value in score.metrics.items()}
    return metrics


def _check_model(recipe: Recipe) -> None:
    if not recipe.model.name_or_path:
        raise ConfigError("finetune: expected a model; name one with --model, or as model.name_or_path in the recipe")


def _with_task(recipe: Recipe, task: Task) -> Recipe:
    """The recipe with the detected labels and columns, for the next stages."""
    if isinstance(recipe.task, str) or recipe.task is None:
        return recipe
    labels = task.model_labels or task.labels
    data = recipe.data.model_copy(update={"text_columns": task.text_columns} if recipe.data.source else {})
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"labels": labels}), "data": data})


def _training_precision(recipe: Recipe, progress: Progress) -> TrainingPrecision:
    precision = choose_precision(recipe.finetune.precision)
    if precision.emulated and _is_main_process():
        _LOG.warning("finetune: %s", precision)
    progress(str(precision), 0.0)
    return precision


def _in_precision(recipe: Recipe, precision: TrainingPrecision) -> Recipe:
    return recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"precision": precision.name})})


def _check_qat(recipe: Recipe) -> None:
    if recipe.finetune.qat is not None and recipe.quantization.mode is not Int8Mode.STATIC:
        raise ConfigError(
            f"finetune.qat: trains for static INT8, found quantization.mode {recipe.quantization.mode.value}; set it "
            f"to static, or omit qat"
        )


def _details(
    model: PreTrainedModel,
    task: Task,
    outcome: PhasesOutcome,
    metrics_of: Callable[[PreTrainedModel], dict[str, float]],
) -> dict[str, Any]:
    """Entries of the manifest about the training; ``metrics`` are those of the saved FP32 weights."""
    normal, qat, fake, start = outcome.normal, outcome.qat, outcome.fake, outcome.start
    details = {"metrics": metrics_of(model), "steps": normal.steps, "history": normal.history}
    if qat is None or fake is None or start is None:
        return details
    before = metrics_of(load_finetuned(start, task.kind))
    with fake.attached():
        fake_int8 = metrics_of(model)
    ranges = fake.ranges
    details["qat"] = {
        "metrics": {"fp32_before": before, "fp32_after": details["metrics"], "fake_int8_after": fake_int8},
        "steps": qat.steps,
        "layers": len(ranges.layers),
        "weights": str(ranges.grid),
        "observed_batches": ranges.batches,
        "history": qat.history,
    }
    return details


def _load_teacher(
    recipe: Recipe, task: Task, student: PreTrainedModel, *, allow_pickle: bool
) -> PreTrainedModel | None:
    settings = recipe.distillation
    if settings is None:
        return None
    resolved = resolve_checkpoint(settings.teacher, settings.teacher_revision, allow_pickle=allow_pickle)
    teacher = load_teacher(resolved.folder, task, allow_pickle=allow_pickle)
    check_teacher(student, teacher, settings)
    return teacher


def _fingerprint(
    recipe: Recipe, source: ResolvedCheckpoint, data_dir: Path | None, train_examples: int
) -> dict[str, Any]:
    """Settings that must be equal in an interrupted run and its resumption."""
    apart = {"export", "quantization", "bench", "gate", "goals", "reference"}
    trained_for = recipe.quantization.model_dump(mode="json", include={"exclude", "target_cpu"})
    return {
        "recipe": recipe.model_dump(mode="json", exclude=apart),
        "int8": trained_for if recipe.finetune.qat else None,
        "weights_sha256": source.weights_sha256(),
        "data_dir": str(data_dir.resolve()) if data_dir else None,
        "train_examples": train_examples,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _open_run_once(folder: Path, fingerprint: dict[str, Any], restart: bool) -> Path | None:
    """Process 0 prepares the training folder; the others wait for it and read its result."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return open_run(folder, fingerprint, restart=restart)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    found: list[Any] = [None]
    if _is_main_process():
        try:
            found = [open_run(folder, fingerprint, restart=restart)]
        except Exception as error:
            found = [error]
    distributed.broadcast_object_list(found, src=0)
    if isinstance(found[0], Exception):
        raise found[0]
    checkpoint: Path | None = found[0]
    return checkpoint


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _check_outcome(model: PreTrainedModel, recipe: Recipe, outcome: PhasesOutcome) -> None:
    found = zero_masks_of(prunable_parameters(model, recipe.sparsity.exclude))
    assert_zeros_kept("finetune", outcome.last.zeros, found)
    check_promise(found, recipe.sparsity)


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    task: Task,
    source: ResolvedCheckpoint,
    outcome: PhasesOutcome,
    details: dict[str, Any],
    output: Path,
) -> Manifest:
    with staged_folder(output, "checkpoint", [source.folder]) as staging:
        model.save_pretrained(staging)
        # Tokenizing for training sets a truncation, which save_pretrained would write into the file.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(staging)
        saved = zero_masks(staging, recipe.sparsity.exclude)
        assert_zeros_kept("saving the checkpoint", outcome.last.zeros, saved)
        required: dict[str, BoolArray] = outcome.last.zeros or saved
        if outcome.fake is not None:
            outcome.fake.ranges.write(staging)
        (staging / RECIPE_FILE).write_text(recipe_text(recipe), encoding="utf-8")
        record = record_masks(saved, required, model_parameters=parameter_count(staging))
        return seal(
            staging,
            Manifest(
                kind="checkpoint",
                task=task.name,
                source=source.as_source(),
                recipe=recipe.model_dump(mode="json"),
                sparsity={"model.safetensors": record},
                details=details,
            ),
        )
