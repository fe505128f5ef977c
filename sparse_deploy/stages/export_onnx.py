# SPDX-License-Identifier: Apache-2.0
"""Stage 2 for an ONNX file of another tool: adds INT8 and sparse files, with checked zeros and results.

There is no checkpoint, so the reference is the file itself in ONNX Runtime.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_ir.passes.common import IdentityEliminationPass, LiftConstantsToInitializersPass

from sparse_deploy.architectures import Config, architecture_of, read_config
from sparse_deploy.artifact_target import check_writable_target
from sparse_deploy.artifacts import Manifest, Source, staged_folder
from sparse_deploy.config.loader import recipe_with_overrides
from sparse_deploy.config.schema import Int8Mode, Recipe
from sparse_deploy.data.demo_text import made_texts
from sparse_deploy.data.encoded import Feature
from sparse_deploy.data.features import load_tokenizer
from sparse_deploy.data.resolve import task_of
from sparse_deploy.data.tasks import PoolingMode, Task
from sparse_deploy.data.unlabelled import read_texts
from sparse_deploy.errors import ArtifactError, ConfigError
from sparse_deploy.evaluation.parity import PARITY_EXAMPLES, check_parity, longest_parity_row, parity_batches
from sparse_deploy.file_records import file_sha256
from sparse_deploy.graph import model_file, weights
from sparse_deploy.graph.append_pooling import AppendPooling
from sparse_deploy.graph.dequantize_products import DequantizeProducts
from sparse_deploy.graph.linears import find_linears
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.transpose_weights import TransposeWeights
from sparse_deploy.graph.unflatten_gemms import UnflattenGemms
from sparse_deploy.machine import describe_machine
from sparse_deploy.runtimes import Session, get_runtime
from sparse_deploy.runtimes.protocol import Array, order_outputs
from sparse_deploy.runtimes.sparse import SPARSE_FILE
from sparse_deploy.signing import open_signer
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.statistics import SparsityRecord, prunable_names, record_masks
from sparse_deploy.stages.default_recipe import name_of, usual_length
from sparse_deploy.stages.int8_target import FP32_FILE, INT8_FILE
from sparse_deploy.stages.seal_deployment import seal_deployment
from sparse_deploy.stages.source_checkpoint import copy_sentence_files
from sparse_deploy.stages.sparse_target import open_for_check, write_sparse_file

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedTokenizerFast


def recipe_of_onnx(path: Path, tokenizer: Path, overrides: list[str]) -> Recipe:
    """The recipe for a file: lengths from the tokenizer's folder, dynamic INT8, sparse.

    Raises:
        ConfigError: no such folder, unknown key, wrong value.
    """
    if not (tokenizer / "config.json").is_file():
        raise ConfigError(f"{tokenizer}: expected the model's folder with config.json and its tokenizer")
    wanted = {
        "name": name_of(path.stem),
        "model": {"name_or_path": str(tokenizer)},
        "data": {"max_length": usual_length(tokenizer)},
        "export": {"openvino": False},
        "quantization": {"mode": "dynamic"},
    }
    return recipe_with_overrides(wanted, overrides, str(path))


def export_onnx_file(
    path: Path,
    tokenizer: Path,
    recipe: Recipe,
    output: Path,
    *,
    sign_key: Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Make a deployment of an ONNX file.

    Args:
        path: the file: FP32, QDQ, or quantized by ONNX Runtime's dynamic quantizer; inputs and outputs as transformers
            and Optimum name them.
        tokenizer: folder with the model's ``config.json`` and tokenizer.
        recipe: see :func:`recipe_of_onnx`.
        output: the new folder.
        sign_key: private key to sign the folder with.
        progress: called with a short message before each step.

    Raises:
        ConfigError: the recipe requires files that can't be made from an ONNX file.
        ArtifactError: the ONNX file is not readable, or has another interface.
        ExportError: no part of the graph fits a sparse operator.
        SparsityError: a step lost a zero.
        ParityError: the results of a file differ from the source.
    """
    check_writable_target(output, "deployment")
    if recipe.quantization.mode is Int8Mode.STATIC or recipe.export.openvino or recipe.export.sparse.openvino:
        raise ConfigError(
            f"{path}: an ONNX file gets dynamic INT8 and {SPARSE_FILE}; static INT8 and OpenVINO's files are made from "
            f"a checkpoint: sparse-deploy export FOLDER"
        )
    signer = open_signer(sign_key) if sign_key else None
    task = task_of(recipe, tokenizer)
    _check_interface(_open(path, task), path, tokenizer)
    with staged_folder(output, "deployment", [tokenizer, path.parent]) as staging:
        export = _Export(path, tokenizer, recipe, task, staging, progress)
        export.write_fp32()
        export.write_int8()
        export.write_sparse()
        source = Source(name_or_path=str(path), weights_sha256=file_sha256(path))
        return seal_deployment(
            staging, task, source, recipe, sparsity=export.sparsity, details=export.details, signer=signer
        )


class _Export:
    """One run of the stage: the common state of its steps, and their entries in the manifest."""

    def __init__(
        self, path: Path, tokenizer: Path, recipe: Recipe, task: Task, staging: Path, progress: Callable[[str], None]
    ) -> None:
        progress("tokenizer")
        self._path, self._recipe, self._task, self._staging = path, recipe, task, staging
        self._progress = progress
        self._threads = describe_machine().usable_cpus
        loaded = load_tokenizer(tokenizer)
        shutil.copyfile(tokenizer / "config.json", staging / "config.json")
        loaded.save_pretrained(staging)
        copy_sentence_files(tokenizer, staging, task)
        self._batches = _batches(task, recipe, loaded, read_config(tokenizer))
        self._answers: list[tuple[Array, ...]] = []
        self._required: dict[str, BoolArray] = {}
        self._quantized = False
        self.sparsity: dict[str, SparsityRecord] = {}
        self.details: dict[str, Any] = {
            "source_file": path.name, "parity": {}, "int8": recipe.quantization.mode.value
        }  # fmt: skip

    def write_fp32(self) -> None:
        """The file with the parameters' names for its weights, compared with the original file."""
        graph = _open(self._path, self._task)
        self._take_answers(graph)
        # Exporters share equal norms through Identity, so that they do not appear as stored tensors.
        IdentityEliminationPass()(graph)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
        dequantize = DequantizeProducts()
        graph = run_passes(graph, dequantize, UnflattenGemms(), TransposeWeights())
        _name_weights(graph)
        masks = weights.zero_masks(graph)
        names = [name for name in masks if not any(part in name for part in self._recipe.sparsity.exclude)]
        self._required = {name: masks[name] for name in prunable_names(masks, self._recipe.sparsity.exclude) or names}
        self._quantized = any(weight.quantized for weight in weights.read_weights(graph))
        model_file.save_onnx(graph, self._staging / FP32_FILE)
        if dequantize.replaced:
            self.details["dequantized_products"] = dequantize.replaced
        session = get_runtime("onnxruntime").open(self._staging, "fp32", self._threads)
        self._check(FP32_FILE, session, exact=not dequantize.replaced)
        self._take_answers(graph)

    def write_int8(self) -> None:
        """Dynamic INT8, unless the file has integer weights."""
        if self._recipe.quantization.mode is not Int8Mode.DYNAMIC or self._quantized:
            return
        from sparse_deploy.quantization.onnx_dynamic import quantize_dynamic

        self._progress("INT8 ONNX (dynamic)")
        quantized = quantize_dynamic(self._staging / FP32_FILE, self._recipe.quantization)
        model_file.save_onnx(quantized, self._staging / INT8_FILE)
        self._check(INT8_FILE, get_runtime("onnxruntime").open(self._staging, "int8", self._threads))

    def write_sparse(self) -> None:
        """``model_sparse.onnx``, unless disabled by the recipe; an error only if the recipe requires it."""
        if self._recipe.export.sparse.enabled is False:
            return
        self._progress("sparse ONNX")
        self.details["sparse"] = write_sparse_file(self._staging, self._recipe)
        if (self._staging / SPARSE_FILE).is_file():
            session, checked_with = open_for_check(self._staging)
            self.details["sparse"]["checked_with"] = checked_with
            self._check(SPARSE_FILE, session)

    def _take_answers(self, graph: "ir.Model") -> None:
        """Set the reference of the next file: the results of this graph in ONNX Runtime."""
        with tempfile.TemporaryDirectory(prefix="sparse-deploy-") as scratch:
            shutil.copyfile(self._staging / "config.json", Path(scratch, "config.json"))
            model_file.save_onnx(graph, Path(scratch, FP32_FILE))
            session = get_runtime("onnxruntime").open(Path(scratch), "fp32", self._threads)
            self._answers = [session.run(batch) for batch in self._batches]
            session.close()

    def _check(self, name: str, session: Session, *, exact: bool = False) -> None:
        self._progress(f"parity of {name}")
        written = model_file.load_onnx(self._staging / name)
        zeros = weights.zero_masks(written)
        assert_zeros_kept(name, self._required, zeros)
        self.sparsity[name] = record_masks(
            zeros if name != FP32_FILE else self._required, self._required,
            model_parameters=weights.parameter_count(written),
        )  # fmt: skip
        settings = self._recipe.export
        atol, agreement = (settings.atol, None) if exact else (None, settings.int8_agreement)
        parity = check_parity(
            self._answers, session.run, self._batches, self._task, name=name,
            reference_name=self._path.name, atol=atol, agreement=agreement,
        )  # fmt: skip
        session.close()
        limits = {"agreement": agreement} if atol is None else {"atol": atol}
        self.details["parity"][name] = {**dataclasses.asdict(parity), **limits}


def _open(path: Path, task: Task) -> "ir.Model":
    """The file's graph, with pooling appended if it is a sentence encoder with token vectors.

    Raises:
        ArtifactError: the ONNX file is not readable.
    """
    graph = model_file.load_onnx(path)
    if task.pooling is None:
        return graph
    first_token = task.pooling.mode is PoolingMode.CLS
    return run_passes(graph, AppendPooling(first_token=first_token, normalize=task.pooling.normalize))


def _check_interface(model: "ir.Model", path: Path, tokenizer: Path) -> None:
    """Check that a file has the inputs and outputs of its model.

    Raises:
        ArtifactError: it has other inputs or outputs.
    """
    graph = model.graph
    order_outputs([str(value.name) for value in graph.outputs], path)
    config = read_config(tokenizer)
    allowed = set(architecture_of(config).inputs(config)) | {"token_type_ids"}
    found = {str(value.name) for value in graph.inputs}
    if not found <= allowed:
        raise ArtifactError(f"{path}: expected inputs {', '.join(sorted(allowed))}, found {', '.join(sorted(found))}")


def _batches(task: Task, recipe: Recipe, tokenizer: "PreTrainedTokenizerFast", config: Config) -> list[Feature]:
    """Batches for the comparison of files: the user's text or generated sentences, up to the longest usable row."""
    data = recipe.data
    rows = (
        read_texts(
            data.unlabelled.source, data.unlabelled.columns, limit=PARITY_EXAMPLES, seed=0, policy="skip",
            split=data.unlabelled.split, config=data.unlabelled.config,
        ).rows
        if data.unlabelled is not None
        else made_texts(PARITY_EXAMPLES, 0)
    )  # fmt: skip
    features = task.encode_unlabelled(rows, tokenizer, data)
    longest = longest_parity_row(config, data.max_length)
    return parity_batches(features, 0, usable_length=longest, pad_id=int(tokenizer.pad_token_id or 0))


def _name_weights(graph: "ir.Model") -> None:
    """Rename each weight to the name of its parameter.

    TorchScript's exporter names a weight ``onnx::MatMul_123`` and its node ``.../query/MatMul``; onnxsim also renames
    the node, so that only the bias, ``....query.bias``, identifies the parameter.
    """
    stored = graph.graph.initializers
    biases = {
        linear.weight.initializer: str(linear.bias.name)
        for linear in find_linears(graph)[0]
        if linear.bias is not None and len(linear.bias.uses()) == 1
    }
    for weight in weights.read_weights(graph):
        name, bias = weight.name, biases.get(weight.initializer, "")
        if name == weight.initializer and not name.endswith(".weight") and bias.endswith(".bias"):
            name = f"{bias.removesuffix('.bias')}.weight"
        if weight.initializer in stored and name not in stored and not weight.part:
            stored[weight.initializer].name = name
