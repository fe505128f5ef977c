# SPDX-License-Identifier: Apache-2.0
"""Makes a sparse checkpoint from a fine-tuned checkpoint and unlabelled text, without training."""

import copy
import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sparse_deploy.activation_ranges import RANGES_FILE
from sparse_deploy.artifact_target import check_writable_target
from sparse_deploy.artifacts import Manifest, seal, staged_folder
from sparse_deploy.checkpoint import ResolvedCheckpoint, parameter_count, resolve_checkpoint, zero_masks
from sparse_deploy.config.data_section import TextSource
from sparse_deploy.config.loader import recipe_from_mapping
from sparse_deploy.config.pruning import PruneSettings
from sparse_deploy.config.schema import Recipe, SparsityMode, SparsitySection
from sparse_deploy.data.features import load_tokenizer
from sparse_deploy.data.tasks import TASKS
from sparse_deploy.data.unlabelled import Texts, read_texts
from sparse_deploy.errors import ConfigError
from sparse_deploy.modeling import load_as_saved
from sparse_deploy.pruning.answers import answers_of, compare_answers, has_head
from sparse_deploy.pruning.batches import token_batches
from sparse_deploy.pruning.encoder_walk import encoder_layers
from sparse_deploy.pruning.magnitude import MagnitudePruning
from sparse_deploy.pruning.method import (
    PruningMethod,
    TokenBatch,
    prunable_parameters,
    zero_masks_of,
)
from sparse_deploy.pruning.second_order import SecondOrderPruning
from sparse_deploy.sparsity.contract import check_promise
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.pattern import BoolArray, holds_pattern
from sparse_deploy.sparsity.statistics import record_masks
from sparse_deploy.stages.default_recipe import name_of, usual_length
from sparse_deploy.stages.prune_plan import plan_by_sensitivity, uniform_plan
from sparse_deploy.stages.torch_threads import limit_torch_threads
from sparse_deploy.training.recovery import recover, split_held_out

Progress = Callable[[str, float], None]
METHODS: dict[str, PruningMethod] = {method.name: method for method in (SecondOrderPruning(), MagnitudePruning())}
# Number of held-out texts to measure the change of the outputs; at most a fifth of all.
_PROBES = 256
# Relative to the time of one pruning; only for the progress display.
_WORK_OF_PLANNING = 5.0
_WORK_OF_RECOVERY = 9.0
# Files of a checkpoint that depend on its weights; they are written again.
_NOT_COPIED = frozenset({"config.json", "manifest.json", "model.safetensors.index.json", RANGES_FILE})
_COPIED_SUFFIXES = (".json", ".txt", ".model", ".md")


@dataclass(frozen=True)
class _Text:
    """The text and its uses.

    Attributes:
        samples: texts for the method.
        rest: texts for the recovery, including the samples.
        probes: held-out texts, to measure the change of the outputs.
    """

    read: Texts
    samples: list[tuple[str, ...]]
    rest: list[tuple[str, ...]]
    probes: list[tuple[str, ...]]


def prune(
    name_or_path: str,
    settings: PruneSettings,
    output: Path,
    *,
    text: TextSource | None = None,
    revision: str = "main",
    allow_pickle: bool = False,
    progress: Progress = lambda message, share: None,
) -> Manifest:
    """Prune a checkpoint and write a plain Hugging Face folder with a manifest.

    Args:
        name_or_path: the dense checkpoint, with any head: folder, hub id, or ``package:NAME/PATH``.
        settings: pattern, share, method.
        output: the new checkpoint folder; written atomically.
        text: unlabelled text like the model's input; required by methods that use activations.
        revision: branch, tag or commit on the hub.
        allow_pickle: accept weights without a safetensors file.
        progress: called with a message and a share between 0 and 1.

    Raises:
        SparseDeployError: see the subclasses; nothing was written.
    """
    check_writable_target(output, "checkpoint")
    limit_torch_threads("prune", lambda line: progress(line, 0.0))
    source = resolve_checkpoint(name_or_path, revision, allow_pickle=allow_pickle)
    check_writable_target(output, "checkpoint", [source.folder])
    tokenizer = load_tokenizer(source.folder)
    text_read = _read(text, settings)
    progress("loading the model", 0.0)
    model = load_as_saved(source.folder, allow_pickle=allow_pickle)
    run = _Run(model, settings, tokenizer, text_read, progress)
    exclude, share = run.prune(name_or_path)
    found = zero_masks_of(prunable_parameters(model, exclude))
    promise = SparsitySection(
        mode=SparsityMode.LOCK, pattern=settings.pattern, target=share, tolerance=0.0, exclude=exclude
    )
    check_promise(found, promise)
    recipe = _recipe(output.name, model, source.name_or_path, revision, promise, usual_length(source.folder))
    details = {
        "settings": settings.model_dump(mode="json"),
        "method": settings.method,
        "text": _describe(text, text_read),
        **run.details,
    }
    progress("writing", 1.0)
    return _write(model, source, found, exclude, output, recipe, details)


class _Run:
    """One pruning: the common state of its steps, and their entries in the manifest."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: PruneSettings,
        tokenizer: PreTrainedTokenizerFast,
        text: _Text | None,
        progress: Progress,
    ) -> None:
        self.details: dict[str, Any] = {}
        self._model = model
        self._settings = settings
        self._tokenizer = tokenizer
        self._text = text
        self._progress = progress
        self._length = min(settings.max_length, tokenizer.model_max_length)

    def prune(self, name: str) -> tuple[tuple[str, ...], float]:
        """Plan, prune, recover and measure; return the dense matrices and the share of zeros of the others."""
        settings, model = self._settings, self._model
        exclude = dense_names(model, settings.exclude)
        parameters = prunable_parameters(model, exclude)
        if not parameters:
            raise ConfigError(f"{name}: no matrix is left to prune; check --exclude")
        before = zero_masks_of(parameters)
        batches = self._batches(self._text.samples if self._text else ())
        probes = self._batches(self._text.probes if self._text else ())
        teacher = copy.deepcopy(model) if settings.recovery else None
        dense = answers_of(model, probes)
        started = time.monotonic()
        planned = (
            plan_by_sensitivity(model, parameters, settings, batches, probes, self._part(0))
            if settings.by_sensitivity
            else uniform_plan(parameters, settings)
        )
        pruned = METHODS[settings.method].prune(model, planned.plan, batches, self._part(1))
        self.details |= {"seconds": round(time.monotonic() - started, 1), "plan": planned.details, **pruned.details}
        if teacher is not None and settings.recovery is not None and self._text is not None:
            outcome = recover(
                model, teacher, parameters, zero_masks_of(parameters), self._text.rest, self._tokenizer,
                settings.recovery, max_length=self._length, seed=settings.seed, progress=self._part(2),
            )  # fmt: skip
            self.details["recovery"] = dataclasses.asdict(outcome)
        found = zero_masks_of(parameters)
        assert_zeros_kept("prune", before, found)
        if probes:
            change = compare_answers(dense, answers_of(model, probes), head=has_head(model, probes[0]))
            self.details["answers"] = {
                "texts": len(self._text.probes if self._text else ()),
                **dataclasses.asdict(change),
            }
        self.details["zeros_before"] = sum(int(mask.sum()) for mask in before.values())
        self.details["shares"] = {tensor: float(mask.mean()) for tensor, mask in found.items()}
        # A matrix without a plan is also recorded if it already has the pattern.
        left_dense = [tensor for tensor in planned.dense if not holds_pattern(found[tensor], settings.pattern)]
        zeros = [mask for tensor, mask in found.items() if tensor not in left_dense]
        share = sum(int(mask.sum()) for mask in zeros) / sum(mask.size for mask in zeros)
        return (*exclude, *left_dense), share

    def _batches(self, texts: Sequence[tuple[str, ...]]) -> list[TokenBatch]:
        return token_batches(texts, self._tokenizer, self._length) if texts else []

    def _part(self, step: int) -> Progress:
        """Progress of planning, pruning or recovery, as a share of the total."""
        settings = self._settings
        work = (
            _WORK_OF_PLANNING if settings.by_sensitivity else 0.0,
            1.0,
            _WORK_OF_RECOVERY if settings.recovery else 0.0,
        )
        begin, size, whole = sum(work[:step]), work[step], sum(work)
        return lambda message, share: self._progress(message, (begin + size * share) / whole)


def dense_names(model: nn.Module, exclude: Sequence[str]) -> tuple[str, ...]:
    """The exclusions, and all matrices that are not Linear weights of encoder layers (a head, position weights)."""
    linears = {
        f"{layer}.{name}.weight"
        for layer, module in encoder_layers(model).items()
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
    }
    others = [name for name in prunable_parameters(model, tuple(exclude)) if name not in linears]
    return (*exclude, *others)


def _read(text: TextSource | None, settings: PruneSettings) -> _Text | None:
    if not METHODS[settings.method].needs_text and settings.recovery is None and text is None:
        return None
    if text is None:
        what = "--recover" if settings.recovery else f"method {settings.method}"
        raise ConfigError(
            f"--text: {what} needs unlabelled text like the input of the model; name a .txt, .jsonl, .csv or .parquet "
            f"file, or use --method magnitude without --recover"
        )
    limit = max(settings.samples, settings.recovery.texts if settings.recovery else 0) + _PROBES
    read = read_texts(
        text.source, text.columns, limit=limit, seed=settings.seed, policy="skip", split=text.split, config=text.config
    )
    probes = min(_PROBES, -(-len(read.rows) // 5))
    rest = read.rows[:-probes] or read.rows
    if settings.recovery:
        split_held_out(rest)  # raises before the pruning if there is too little text
    return _Text(read, rest[: settings.samples], rest, read.rows[-probes:])


def _recipe(
    name: str, model: PreTrainedModel, name_or_path: str, revision: str, promise: SparsitySection, max_length: int
) -> Recipe:
    """The recipe of ``export`` and ``finetune`` without a recipe file: the default, with the new zeros required."""
    known = getattr(model.config, "finetuning_task", None)
    return recipe_from_mapping(
        {
            "name": name_of(name),
            "task": known if known in TASKS else None,
            "model": {"name_or_path": name_or_path, "revision": revision},
            "data": {"max_length": max_length},
            "sparsity": promise.model_dump(mode="json"),
            "export": {"sparse": {"enabled": True}},
            "quantization": {"mode": "dynamic"},
        },
        "prune",
    )


def _describe(text: TextSource | None, read: _Text | None) -> dict[str, Any] | None:
    if text is None or read is None:
        return None
    return {
        "source": text.source,
        "columns": list(read.read.columns),
        "texts": len(read.samples),
        "of": read.read.seen,
        "left_out": read.read.problems.summary(),
    }


def _write(
    model: PreTrainedModel,
    source: ResolvedCheckpoint,
    required: Mapping[str, BoolArray],
    exclude: tuple[str, ...],
    output: Path,
    recipe: Recipe,
    details: dict[str, Any],
) -> Manifest:
    with staged_folder(output, "checkpoint", [source.folder]) as staging:
        _copy_companions(source.folder, staging)
        model.save_pretrained(staging, max_shard_size="100GB")
        saved = zero_masks(staging, exclude)
        assert_zeros_kept("saving the checkpoint", required, saved)
        record = record_masks(saved, dict(required), model_parameters=parameter_count(staging))
        return seal(
            staging,
            Manifest(
                kind="checkpoint",
                task=recipe.task if isinstance(recipe.task, str) else "",
                source=source.as_source(),
                recipe=recipe.model_dump(mode="json"),
                sparsity={"model.safetensors": record},
                details=details,
            ),
        )


def _copy_companions(source: Path, staging: Path) -> None:
    """Copy the tokenizer and the other files of a sentence encoder (``modules.json``, ``1_Pooling``)."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in _COPIED_SUFFIXES and path.name not in _NOT_COPIED:
            shutil.copyfile(path, staging / path.name)
        elif path.is_dir() and path.name[:1].isdigit() and (path / "config.json").is_file():
            shutil.copytree(path, staging / path.name)
