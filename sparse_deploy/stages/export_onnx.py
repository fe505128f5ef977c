# SPDX-License-Identifier: Apache-2.0
"""Stage 2 from an ONNX file that another tool wrote: INT8 and sparse files beside it, their zeros and answers proven.

There is no checkpoint, so the file itself is the reference, in ONNX Runtime.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_ir.passes.common import IdentityEliminationPass, LiftConstantsToInitializersPass

from sparse_deploy.architectures import architecture_of, read_config
from sparse_deploy.artifact_target import check_writable_target
from sparse_deploy.artifacts import Manifest, Source, seal, staged_folder
from sparse_deploy.config.loader import recipe_with_overrides
from sparse_deploy.config.schema import Recipe
from sparse_deploy.data.demo_text import made_texts
from sparse_deploy.data.features import load_tokenizer
from sparse_deploy.data.resolve import task_of
from sparse_deploy.data.unlabelled import read_texts
from sparse_deploy.errors import ArtifactError, ConfigError
from sparse_deploy.evaluation.parity import check_parity, parity_batches
from sparse_deploy.file_records import file_sha256
from sparse_deploy.graph import model_file, weights
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.transpose_weights import TransposeWeights
from sparse_deploy.machine import describe_machine
from sparse_deploy.runtimes import Session, get_runtime
from sparse_deploy.runtimes.protocol import order_outputs
from sparse_deploy.runtimes.sparse import SPARSE_FILE
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.statistics import prunable_names, record_masks
from sparse_deploy.stages.default_recipe import name_of, usual_length
from sparse_deploy.stages.int8_target import FP32_FILE, INT8_FILE
from sparse_deploy.stages.sparse_target import open_for_check, write_sparse_file

if TYPE_CHECKING:
    import onnx_ir as ir

_PARITY_EXAMPLES = 256
_LONGEST_PARITY_ROW = 2048


def recipe_of_onnx(path: Path, tokenizer: Path, overrides: list[str]) -> Recipe:
    """The recipe for a file: lengths of the tokenizer's folder, dynamic INT8, sparse.

    Raises:
        ConfigError: no such folder, unknown key, wrong value.
    """
    if not (tokenizer / "config.json").is_file():
        raise ConfigError(f"{tokenizer}: expected the model's folder with config.json and its tokenizer")
    wanted = {
        "name": name_of(path.stem),
        "model": {"name_or_path": str(tokenizer)},
        "data": {"max_length": usual_length(tokenizer)},
        "export": {"sparse": {"enabled": True}, "openvino": False},
        "quantization": {"mode": "dynamic"},
    }
    return recipe_with_overrides(wanted, overrides, str(path))


def export_onnx_file(
    path: Path, tokenizer: Path, recipe: Recipe, output: Path, *, progress: Callable[[str], None] = lambda message: None
) -> Manifest:
    """Make a deployment of an ONNX file.

    Args:
        path: the file, FP32 or QDQ; inputs and outputs as transformers and Optimum name them.
        tokenizer: folder with the model's ``config.json`` and tokenizer.
        recipe: see :func:`recipe_of_onnx`.
        output: the new folder.
        progress: called with a short message before each step.

    Raises:
        ArtifactError: no readable ONNX file, or another interface.
        ExportError: no part of it fits a sparse operator.
        SparsityError: a step lost a zero.
        ParityError: a file answers differently from the source.
    """
    check_writable_target(output, "deployment")
    graph = model_file.load_onnx(path)
    task = task_of(recipe, tokenizer)
    order_outputs([str(value.name) for value in graph.graph.outputs], path)
    config = read_config(tokenizer)
    allowed = set(architecture_of(config).inputs(config)) | {"token_type_ids"}
    found = {str(value.name) for value in graph.graph.inputs}
    if not found <= allowed:
        raise ArtifactError(f"{path}: expected inputs {', '.join(sorted(allowed))}, found {', '.join(sorted(found))}")
    with staged_folder(output, "deployment", [tokenizer, path.parent]) as staging:
        progress("tokenizer")
        loaded = load_tokenizer(tokenizer)
        shutil.copyfile(tokenizer / "config.json", staging / "config.json")
        loaded.save_pretrained(staging)
        # Exporters share equal norms through Identity, which hides that they are stored.
        for clean_up in (IdentityEliminationPass(), LiftConstantsToInitializersPass(lift_all_constants=True)):
            clean_up(graph)
        _name_weights(graph)
        masks = weights.zero_masks(graph)
        model_file.save_onnx(run_passes(graph, TransposeWeights()), staging / FP32_FILE)
        names = [name for name in masks if not any(part in name for part in recipe.sparsity.exclude)]
        named = prunable_names(masks, recipe.sparsity.exclude)
        required = {name: masks[name] for name in (named or names)}
        sparsity = {FP32_FILE: record_masks(required, model_parameters=weights.parameter_count(graph))}
        data = recipe.data
        rows = (
            read_texts(
                data.unlabelled.source, data.unlabelled.columns, limit=_PARITY_EXAMPLES, seed=0, policy="skip",
                split=data.unlabelled.split, config=data.unlabelled.config,
            ).rows
            if data.unlabelled is not None
            else made_texts(_PARITY_EXAMPLES, 0)
        )  # fmt: skip
        features = task.encode_unlabelled(rows, loaded, data)
        longest = min(
            architecture_of(config).usable_length(config) or data.max_length, max(data.max_length, _LONGEST_PARITY_ROW)
        )
        batches = parity_batches(features, 0, usable_length=longest, pad_id=int(loaded.pad_token_id or 0))
        threads = describe_machine().usable_cpus
        reference = get_runtime("onnxruntime").open(staging, "fp32", threads)
        answers = [reference.run(batch) for batch in batches]
        reference.close()
        parities: dict[str, Any] = {}
        details: dict[str, Any] = {
            "source_file": path.name, "parity": parities, "int8": recipe.quantization.mode.value
        }  # fmt: skip

        def check(name: str, session: Session) -> None:
            progress(f"parity of {name}")
            written = model_file.load_onnx(staging / name)
            zeros = weights.zero_masks(written)
            assert_zeros_kept(name, required, zeros)
            sparsity[name] = record_masks(zeros, required, model_parameters=weights.parameter_count(written))
            limit = recipe.export.int8_agreement
            parity = check_parity(answers, session.run, batches, task, name=name, agreement=limit)
            session.close()
            parities[name] = {**dataclasses.asdict(parity), "agreement": limit}

        if recipe.quantization.mode.value == "dynamic" and not any(w.quantized for w in weights.read_weights(graph)):
            from sparse_deploy.quantization.onnx_dynamic import quantize_dynamic

            progress("INT8 ONNX (dynamic)")
            model_file.save_onnx(quantize_dynamic(staging / FP32_FILE, recipe.quantization), staging / INT8_FILE)
            check(INT8_FILE, get_runtime("onnxruntime").open(staging, "int8", threads))
        progress("sparse ONNX")
        details["sparse"] = write_sparse_file(staging, recipe)
        if (staging / SPARSE_FILE).is_file():
            session, checked_with = open_for_check(staging)
            details["sparse"] |= {"checked_with": checked_with}
            check(SPARSE_FILE, session)
        manifest = Manifest(
            kind="deployment",
            task=task.name,
            source=Source(name_or_path=str(path), weights_sha256=file_sha256(path)),
            recipe=recipe.model_dump(mode="json"),
            sparsity=sparsity,
            details=details,
        )
        return seal(staging, manifest)


def _name_weights(graph: "ir.Model") -> None:
    """Give each weight the name that it is known by; exporters call it ``onnx::MatMul_123`` in ``.../query/MatMul``."""
    stored = graph.graph.initializers
    for weight in weights.read_weights(graph):
        if weight.initializer in stored and weight.name not in stored and not weight.part:
            stored[weight.initializer].name = weight.name
