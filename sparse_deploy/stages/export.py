# SPDX-License-Identifier: Apache-2.0
"""Stage 2: makes a deployment of a checkpoint: ONNX and OpenVINO IR, FP32, INT8 and sparse, with checked zeros."""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_deploy.activation_ranges import ActivationRanges, read_ranges
from sparse_deploy.architectures import check_length, read_config
from sparse_deploy.artifact_target import check_writable_target
from sparse_deploy.artifacts import Manifest, staged_folder
from sparse_deploy.checkpoint import WEIGHTS_FILE, ResolvedCheckpoint, parameter_count, resolve_checkpoint, zero_masks
from sparse_deploy.config.loader import recipe_from_mapping
from sparse_deploy.config.schema import Int8Mode, Recipe, Target
from sparse_deploy.data.demo_text import made_texts
from sparse_deploy.data.features import Feature, encode_split, load_tokenizer
from sparse_deploy.data.loading import load_split
from sparse_deploy.data.resolve import task_of
from sparse_deploy.data.tasks import TASKS, Task
from sparse_deploy.data.unlabelled import read_texts
from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.evaluation.parity import PARITY_EXAMPLES, Parity, check_parity, longest_parity_row, parity_batches
from sparse_deploy.graph import model_file, weights
from sparse_deploy.machine import describe_machine
from sparse_deploy.runtimes import Session, get_runtime
from sparse_deploy.runtimes.openvino_sparse import SPARSE_IR_FILE
from sparse_deploy.runtimes.sparse import SPARSE_FILE
from sparse_deploy.signing import open_signer
from sparse_deploy.sparsity.contract import check_promise
from sparse_deploy.sparsity.mask import assert_zeros_kept
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.statistics import SparsityRecord, record_masks
from sparse_deploy.stages.int8_search import search_int8
from sparse_deploy.stages.int8_target import INT8_FILE, Int8Source, describe_weights, open_builder
from sparse_deploy.stages.seal_deployment import seal_deployment
from sparse_deploy.stages.source_checkpoint import copy_model
from sparse_deploy.stages.sparse_target import open_for_check, write_sparse_file, write_sparse_ir
from sparse_deploy.stages.target_cpu import with_target_cpu
from sparse_deploy.stages.torch_threads import limit_torch_threads

if TYPE_CHECKING:
    import onnx_ir as ir

Progress = Callable[[str], None]


def export_deployment(
    checkpoint: str,
    recipe: Recipe,
    output: Path,
    *,
    int8: Int8Mode | None = None,
    targets: Sequence[Target] = (),
    data_dir: Path | None = None,
    allow_pickle: bool = False,
    sign_key: Path | None = None,
    progress: Progress = lambda message: None,
) -> Manifest:
    """Export a fine-tuned checkpoint to a deployment folder.

    Every file is read back; it must have each zero of the checkpoint, and agree with PyTorch on real text.

    Args:
        checkpoint: folder, hub id, or ``package:NAME/PATH``.
        recipe: task, required sparsity, quantization and export settings.
        output: the new folder; written atomically.
        int8: overrides ``recipe.quantization.mode``.
        targets: additional targets, which the recipe may not have.
        data_dir: folder with the task's text, for calibration and parity; default: the hub.
        allow_pickle: accept a checkpoint without safetensors.
        sign_key: private key of the signature; see :mod:`sparse_deploy.signing`.
        progress: called with a short message before each step.

    Returns:
        The written manifest.

    Raises:
        ConfigError: the checkpoint is not a model of the recipe's task, or the targets need another ``int8``.
        ExportError: a requested target can't be made from this model.
        SparsityError: required zeros are missing, or a step lost one.
        ParityError: the results of a file differ from PyTorch.
        SparseDeployError: see the other subclasses.
    """
    limit_torch_threads("export", progress)
    check_writable_target(output, "deployment")
    signer = open_signer(sign_key) if sign_key else None
    recipe = with_target_cpu(with_options(recipe, int8, targets))
    revision = recipe.model.revision if checkpoint == recipe.model.name_or_path else "main"
    source = resolve_checkpoint(checkpoint, revision, allow_pickle=allow_pickle)
    task = task_of(recipe, source.folder)
    check_length(read_config(source.folder), recipe.data.max_length, checkpoint)
    with staged_folder(output, "deployment", [source.folder]) as staging:
        export = _Export(recipe, task, staging, data_dir, progress)
        export.take_checkpoint(source, allow_pickle=allow_pickle)
        export.write_fp32()
        export.write_int8()
        export.write_sparse()
        return seal_deployment(
            staging, task, source.as_source(), recipe, sparsity=export.sparsity, details=export.details, signer=signer
        )


def with_options(recipe: Recipe, int8: Int8Mode | None, targets: Sequence[Target]) -> Recipe:
    """The recipe with the settings of ``--int8`` and ``--target``."""
    changed = recipe.model_dump(mode="json")
    if int8 is not None:
        changed["quantization"]["mode"] = int8.value
    if Target.OPENVINO in targets:
        changed["export"]["openvino"] = True
    if Target.SPARSE in targets:
        changed["export"]["sparse"]["enabled"] = True
    if Target.OPENVINO_SPARSE in targets:
        changed["export"]["sparse"] |= {"enabled": True, "openvino": True}
    return recipe_from_mapping(changed, f"recipe {recipe.name}")


class _Export:
    """One run of the stage: the common state of its steps, and their entries in the manifest."""

    def __init__(self, recipe: Recipe, task: Task, staging: Path, data_dir: Path | None, progress: Progress) -> None:
        self.sparsity: dict[str, SparsityRecord] = {}
        self.details: dict[str, Any] = {
            "int8": recipe.quantization.mode.value,
            "opset": recipe.export.opset,
            "parity": {},
        }
        self._recipe = recipe
        self._task = task
        self._staging = staging
        self._data_dir = data_dir
        self._progress = progress
        self._required: dict[str, BoolArray] = {}
        self._learned: ActivationRanges | None = None
        self._batches: list[Feature] = []
        self._answers: list[Sequence[Any]] = []

    def take_checkpoint(self, source: ResolvedCheckpoint, *, allow_pickle: bool) -> None:
        """Copy the PyTorch source and its tokenizer, and check its zeros against the recipe."""
        self._progress("checkpoint")
        self._tokenizer = load_tokenizer(source.folder)
        copy_model(source.folder, self._staging, self._task, allow_pickle=allow_pickle)
        self._tokenizer.save_pretrained(self._staging)
        if (source.folder / "vocab.txt").is_file():  # save_pretrained does not write it; C++ tokenizers need it
            shutil.copyfile(source.folder / "vocab.txt", self._staging / "vocab.txt")
        self._learned = read_ranges(source.folder)
        self._required = zero_masks(self._staging, self._recipe.sparsity.exclude)
        check_promise(self._required, self._recipe.sparsity)
        self.sparsity[WEIGHTS_FILE] = record_masks(self._required, model_parameters=parameter_count(self._staging))

    def write_fp32(self) -> None:
        """ONNX and IR in FP32."""
        from sparse_deploy.export.exporter import ExportableModel, example_inputs, quiet, to_onnx
        from sparse_deploy.graph.name_weights import NameWeights
        from sparse_deploy.graph.sparsity_check import run_passes
        from sparse_deploy.graph.transpose_weights import TransposeWeights

        with quiet():  # torchao prints while transformers imports it
            from sparse_deploy.modeling import load_finetuned

        self._progress("FP32 ONNX")
        names = self._task.output_names
        model = load_finetuned(self._staging, self._task.kind, note=self._progress)
        self._model = ExportableModel(model, names, self._task.pooling).eval()
        parameters = {name: value.numpy() for name, value in self._model.model.state_dict().items()}
        self._prepare_parity()
        graph = to_onnx(self._model, example_inputs(self._model.input_names), names, self._recipe.export.opset)
        run_passes(graph, NameWeights(parameters))
        self._check_zeros("naming the weights", weights.zero_masks(graph))
        self._graph = graph.clone()
        self._write_onnx(run_passes(graph, TransposeWeights()), "model.onnx")
        self._check(self._open("onnxruntime", "fp32"), "fp32", "model.onnx")
        self._write_ir("fp32", self._staging / "model.onnx", "openvino_model.xml")

    def write_int8(self) -> None:
        """ONNX and IR in INT8, by the settings of the recipe."""
        mode = self._recipe.quantization.mode
        if mode is Int8Mode.NONE:
            return
        self._write_onnx(self._int8_graph(), INT8_FILE)
        self._check(self._open("onnxruntime", "int8"), "int8", INT8_FILE)
        with tempfile.TemporaryDirectory(dir=self._staging) as folder:
            source = self._staging / INT8_FILE
            if mode is Int8Mode.DYNAMIC:
                source = self._compressed(Path(folder, "compressed.onnx"))
            self._write_ir("int8", source, "openvino_model_int8.xml")

    def write_sparse(self) -> None:
        """ONNX with sparse operators, if requested and if the graph has suitable parts."""
        if not self._recipe.wants_sparse_file:
            return
        self._progress("sparse ONNX")
        details = write_sparse_file(self._staging, self._recipe)
        self.details["sparse"] = details
        if (self._staging / SPARSE_FILE).is_file():
            self._record(SPARSE_FILE)
            session, details["checked_with"] = open_for_check(self._staging)
            try:
                self._check(session, "int8", SPARSE_FILE)
            except RuntimeUnavailableError as error:
                details["checked_with"] = f"nothing: {error}"
            if self._recipe.export.sparse.openvino:
                self._write_sparse_ir()

    def _write_sparse_ir(self) -> None:
        self._progress("sparse OpenVINO IR")
        write_sparse_ir(self._staging)
        self._record_ir(SPARSE_IR_FILE)
        self._check(self._open("openvino-sparse", "int8"), "int8", SPARSE_IR_FILE)

    def _int8_graph(self) -> "ir.Model":
        source = Int8Source(
            folder=self._staging,
            recipe=self._recipe,
            task=self._task,
            data_dir=self._data_dir,
            model=self._model,
            graph=self._graph,
            required=self._required,
            text=self._features,
            learned=self._learned,
            progress=self._progress,
        )
        self._progress(f"INT8 ONNX ({self._recipe.quantization.mode.value})")
        builder = open_builder(source)
        if self._recipe.quantization.accuracy is None:
            graph = builder.build(builder.first())
        else:
            graph, self.details["int8_search"] = search_int8(source, builder)
        self.details |= builder.details
        self.details["int8_weights"] = describe_weights(graph, self._recipe.quantization)
        return graph

    def _compressed(self, path: Path) -> Path:
        """The source of the IR of dynamic INT8; see :mod:`sparse_deploy.graph.compress_weights`."""
        from sparse_deploy.graph.compress_weights import CompressWeights
        from sparse_deploy.graph.sparsity_check import run_passes

        quantized = weights.read_weights(model_file.load_onnx(self._staging / INT8_FILE))
        graph = model_file.load_onnx(self._staging / "model.onnx")
        model_file.save_onnx(run_passes(graph, CompressWeights(quantized)), path)
        return path

    def _write_onnx(self, graph: "ir.Model", name: str) -> None:
        model_file.save_onnx(graph, self._staging / name)
        self._record(name)

    def _write_ir(self, precision: str, onnx_path: Path, xml_name: str) -> None:
        if not self._recipe.export.openvino:
            return
        from sparse_deploy.export.openvino import convert_to_ir

        self._progress(f"{precision.upper()} OpenVINO IR")
        convert_to_ir(onnx_path, self._staging / xml_name)
        self._record_ir(xml_name)
        try:
            self._check(self._open("openvino", precision), precision, xml_name)
        except RuntimeUnavailableError as error:  # made for other CPUs
            self.details["unchecked"] = {xml_name: str(error).removeprefix(f"{self._staging / xml_name}: ")}

    def _record_ir(self, name: str) -> None:
        """Read a written IR back, check its zeros and record them."""
        from sparse_deploy.graph.openvino_ir import parameter_count, read_zero_masks

        xml = self._staging / name
        self._check_zeros(name, found := read_zero_masks(xml))
        self.sparsity[name] = record_masks(found, self._required, model_parameters=parameter_count(xml))

    def _record(self, name: str) -> None:
        """Read a written ONNX file back, check its zeros and record them."""
        graph = model_file.load_onnx(self._staging / name)
        self._check_zeros(name, found := weights.zero_masks(graph))
        self.sparsity[name] = record_masks(found, self._required, model_parameters=weights.parameter_count(graph))

    def _check_zeros(self, stage: str, found: Mapping[str, BoolArray]) -> None:
        assert_zeros_kept(stage, self._required, found)

    def _prepare_parity(self) -> None:
        self._progress("parity text")
        _, split = next(iter(self._task.validation_splits.items()))
        seed = self._recipe.quantization.seed
        features = self._features(split, PARITY_EXAMPLES, seed)
        pad_id = int(self._tokenizer.pad_token_id or 0)
        longest = longest_parity_row(read_config(self._staging), self._recipe.data.max_length)
        self._batches = parity_batches(features, seed, usable_length=longest, pad_id=pad_id)
        session = self._open("pytorch", "fp32")
        # The reference of all files.
        self._answers = [session.run(batch) for batch in self._batches]
        session.close()

    def _open(self, runtime: str, precision: str) -> Session:
        return get_runtime(runtime).open(self._staging, precision, describe_machine().usable_cpus)

    def _check(self, session: Session, precision: str, name: str) -> None:
        """Parity of a written file with PyTorch on the deployment's checkpoint. OpenVINO computes in FP32 (no BF16)."""
        self._progress(f"parity of {name}")
        settings = self._recipe.export
        atol, agreement = (settings.atol, None) if precision == "fp32" else (None, settings.int8_agreement)
        parity: Parity = check_parity(
            self._answers,
            session.run,
            self._batches,
            self._task,
            name=name,
            atol=atol,
            agreement=agreement,
            remedy=self._int8_remedy(name),
        )
        session.close()
        limits = {"agreement": agreement} if atol is None else {"atol": atol}
        self.details["parity"][name] = {**dataclasses.asdict(parity), **limits}

    def _int8_remedy(self, name: str) -> str:
        """The remedy for an INT8 file with different results; the search can't change a sparse file made from FP32."""
        if name in (SPARSE_FILE, SPARSE_IR_FILE) and self._recipe.export.sparse.source == "fp32":
            return "name layers to exclude in quantization.exclude"
        if self._recipe.quantization.accuracy is None:
            return "set quantization.accuracy.max_drop, for a search that keeps operators in FP32 (docs/int8.md)"
        return "lower quantization.accuracy.max_drop"

    def _features(self, split: str, limit: int, seed: int) -> list[Feature]:
        """Text for calibration and parity: the recipe's text, else the task's rows, else generated sentences."""
        data = self._recipe.data
        if data.unlabelled is not None:
            source = data.unlabelled
            read = read_texts(
                source.source, source.columns, limit=limit, seed=seed, policy="skip", split=source.split,
                config=source.config,
            )  # fmt: skip
            self.details["text"] = {"source": source.source, "columns": list(read.columns), "rows": read.seen}
            for line in read.problems.summary():
                self._progress(line)
            return self._task.encode_unlabelled(read.rows, self._tokenizer, data)
        if not data.source and not self._task.hub_dataset and self._task.name not in TASKS:
            self.details["text"] = {"source": "generated sentences: no text was given"}
            return self._task.encode_unlabelled(made_texts(limit, seed), self._tokenizer, data)
        rows = load_split(self._task, split, self._data_dir, data=self._recipe.data, limit=limit, shuffle_seed=seed)
        return encode_split(self._task, rows, self._tokenizer, self._recipe.data, name=split).features
