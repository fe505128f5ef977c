# SPDX-License-Identifier: Apache-2.0
"""Models with random weights and a given pattern, in the file formats of all runtimes; built once, then cached.

The dense files are written by the functions of ``sparse-deploy export``, but calibrated on random token ids:
checkpoint, ONNX in FP32, static QDQ INT8 and dynamic INT8, OpenVINO IR of the first two. The output of ONNX Runtime's
own transformer fusion, in dynamic INT8, is added, since it can be faster there.

``python -m harness.models MODEL PATTERN FOLDER`` builds in a separate process, so that its gigabytes of memory are
released before the measurement.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.cells import MODELS, parse_pattern

FP32_ONNX = "model.onnx"
DYNAMIC_ONNX, DYNAMIC_FUSED = "model_dynamic.onnx", "model_dynamic_fused.onnx"
QDQ_ONNX = "model_int8.onnx"
FP32_IR, QDQ_IR = "openvino_model.xml", "openvino_model_int8.xml"
SPARSE_ONNX, SPARSE_IR = "model_sparse.onnx", "openvino_sparse.xml"
KEY_FILE = "key.json"

# Increase this number when a change of this module changes the files.
_FORMAT = 2
_SEED = 20
_VERSIONED = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "neural-compressor")
_OPSET = 20
_CALIBRATION_BATCHES, _CALIBRATION_SHAPE = 4, (2, 128)

Progress = Callable[[str], None]


def model_folder(cache: Path, model: str, pattern: str, progress: Progress = lambda message: None) -> Path:
    """Return the folder with all dense files of a model; build it if the cache has none with this key.

    Args:
        cache: folder of all models.
        model: one of :data:`harness.cells.MODELS`.
        pattern: see :func:`harness.cells.parse_pattern`.
        progress: called before a build.

    Raises:
        RuntimeError: the build failed.
    """
    key = cache_key(model, pattern)
    folder = cache / f"{model}-{pattern}-{digest(key)}"
    if (folder / KEY_FILE).is_file():
        return folder
    progress(f"building {folder.name} (once; bert-large takes minutes)")
    cache.mkdir(parents=True, exist_ok=True)
    run_module("harness.models", model, pattern, str(folder))
    for stale in cache.glob(f"{model}-{pattern}-*"):  # folders of other versions: bert-large takes 7 GB
        if stale != folder:
            shutil.rmtree(stale)
    return folder


def cache_key(model: str, pattern: str) -> dict[str, Any]:
    """The inputs that determine the content of a folder."""
    return {
        "format": _FORMAT,
        "config": MODELS[model].config,
        "task": MODELS[model].task,
        "pattern": pattern,
        "seed": _SEED,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }


def digest(key: object) -> str:
    """A short hash of a JSON value."""
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=4).hexdigest()


def random_inputs(batch: int, sequence: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of random words without padding: int64 ``[batch, sequence]`` by input name."""
    ids = np.random.default_rng(seed).integers(1000, 30000, size=(batch, sequence))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def python_path() -> dict[str, str]:
    """``PYTHONPATH`` for a child process that imports this package."""
    root = str(Path(__file__).resolve().parents[1])
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def child_environment(**variables: str) -> dict[str, str]:
    """The environment of a child process that imports this package, with access to the hub disabled."""
    return {**os.environ, **python_path(), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **variables}


def build(model: str, pattern: str, folder: Path) -> None:
    """Write all dense files of a model; the key file is written last, and the complete folder is renamed."""
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_checkpoint(model, pattern, staging)
        _write_onnx(model, staging)
        if MODELS[model].model_type == "bert":
            _write_fused(model, staging)
        _write_ir(staging)
        (staging / KEY_FILE).write_text(json.dumps(cache_key(model, pattern), indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _write_checkpoint(model: str, pattern: str, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    from sparse_deploy.config.schema import DEFAULT_EXCLUDE
    from sparse_deploy.pruning.magnitude import magnitude_masks
    from sparse_deploy.sparsity.pattern import DENSE
    from sparse_deploy.sparsity.statistics import prunable_names

    torch.manual_seed(_SEED)
    answers_questions = MODELS[model].task == "question-answering"
    kind = AutoModelForQuestionAnswering if answers_questions else AutoModelForSequenceClassification
    network = kind.from_config(AutoConfig.for_model(**{"model_type": MODELS[model].model_type, **MODELS[model].config}))
    wanted, share = parse_pattern(pattern)
    if wanted != DENSE:
        weights = dict(network.named_parameters())
        names = prunable_names([name for name, weight in weights.items() if weight.ndim == 2], DEFAULT_EXCLUDE)
        for name in names:
            mask = magnitude_masks({name: weights[name]}, wanted, share, "layer")[name]
            weights[name].data[torch.from_numpy(mask)] = 0.0
    network.save_pretrained(folder, max_shard_size="100GB")


def _write_onnx(model: str, folder: Path) -> None:
    from sparse_deploy.config.schema import QuantizationSection
    from sparse_deploy.data.tasks import TaskKind
    from sparse_deploy.export.exporter import ExportableModel, example_inputs, output_names, quiet, to_onnx
    from sparse_deploy.graph.fold_weight_quantization import FoldWeightQuantization
    from sparse_deploy.graph.model_file import save_onnx
    from sparse_deploy.graph.name_weights import NameWeights
    from sparse_deploy.graph.quantize_products import QuantizeProducts
    from sparse_deploy.graph.sparsity_check import run_passes
    from sparse_deploy.graph.transpose_weights import TransposeWeights

    with quiet():
        from sparse_deploy.modeling import load_finetuned
        from sparse_deploy.quantization.neural_compressor import StaticQuantizer
        from sparse_deploy.quantization.onnx_dynamic import quantize_dynamic

    names = output_names(MODELS[model].task)
    network = ExportableModel(load_finetuned(folder, TaskKind(MODELS[model].task)), names).eval()
    parameters = {name: value.numpy() for name, value in network.model.state_dict().items()}
    graph = run_passes(to_onnx(network, example_inputs(network.input_names), names, _OPSET), NameWeights(parameters))
    save_onnx(run_passes(graph.clone(), TransposeWeights()), folder / FP32_ONNX)
    settings = QuantizationSection()
    save_onnx(quantize_dynamic(folder / FP32_ONNX, settings), folder / DYNAMIC_ONNX)
    batches = [random_inputs(*_CALIBRATION_SHAPE, seed=seed) for seed in range(1, 1 + _CALIBRATION_BATCHES)]
    found = StaticQuantizer(network, batches, settings).quantize(settings.smoothing, (settings.observer,))
    passes = (QuantizeProducts(found.products), FoldWeightQuantization(), TransposeWeights())
    save_onnx(run_passes(graph, *passes), folder / QDQ_ONNX)


def _write_fused(model: str, folder: Path) -> None:
    """Dynamic INT8 of ONNX Runtime's offline fusion of BERT (EmbedLayerNormalization, Attention, BiasGelu …).

    Its attention fusion matches the graph of the TorchScript exporter with eager attention and transformers' mask;
    in the dynamo exporter's graph it fuses no attention.
    """
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model

    from sparse_deploy.data.tasks import MODEL_INPUTS, TaskKind
    from sparse_deploy.export.exporter import example_inputs, output_names, quiet

    with quiet():
        from sparse_deploy.modeling import load_finetuned

        network = load_finetuned(folder, TaskKind(MODELS[model].task))
        outputs = output_names(MODELS[model].task)

        class Positional(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network  # a submodule, because the tracer rejects parameters of other objects

            def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
                result = self.network(**dict(zip(MODEL_INPUTS, inputs, strict=True)))
                return tuple(result[name] for name in outputs)

        source = folder / "torchscript.onnx"
        torch.onnx.export(
            Positional().eval(),
            example_inputs(),
            source,
            dynamo=False,
            input_names=list(MODEL_INPUTS),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in MODEL_INPUTS},
            opset_version=17,
        )
        fused = optimize_model(
            str(source),
            model_type="bert",
            num_heads=network.config.num_attention_heads,
            hidden_size=network.config.hidden_size,
            opt_level=0,
            use_gpu=False,
        )
        found = {node.op_type for node in fused.model.graph.node}
        if not {"Attention", "SkipLayerNormalization", "BiasGelu"} <= found:
            raise RuntimeError(f"ONNX Runtime's transformer optimizer skipped a fusion; the graph has {sorted(found)}")
        del fused.model.graph.value_info[:]
        # Saving sorts the nodes and adds the fused operators' domain, which the model in memory lacks.
        fused.save_model_to_file(str(source))
        # By default the quantizer includes Gemm (pooler and head), which are FP32 in all files of this project.
        chosen = [
            node.name
            for node in fused.model.graph.node
            if node.op_type in ("MatMul", "Attention") and "qa_outputs" not in node.name
        ]
        quantize_dynamic(
            source,
            folder / DYNAMIC_FUSED,
            op_types_to_quantize=["MatMul", "Attention"],
            nodes_to_quantize=chosen,
            weight_type=QuantType.QInt8,
            # Shape inference stops at the fused operators, so the quantizer needs the type.
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        source.unlink()


def _write_ir(folder: Path) -> None:
    from sparse_deploy.export.openvino import convert_to_ir

    convert_to_ir(folder / FP32_ONNX, folder / FP32_IR)
    convert_to_ir(folder / QDQ_ONNX, folder / QDQ_IR)


def run_module(module: str, *arguments: str) -> None:
    """Run a module of this package in a separate process.

    Raises:
        RuntimeError: the process failed; the message is the last line of its standard error.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{module} {' '.join(arguments)} failed: {lines[-1]}")


if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
