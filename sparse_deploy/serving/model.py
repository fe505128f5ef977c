# SPDX-License-Identifier: Apache-2.0
"""The model of a server: a verified deployment, opened with the fastest runtime, and its task."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_deploy.architectures import architecture_of
from sparse_deploy.artifacts import Manifest, load_manifest
from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.encoded import RowOutputs as Outputs
from sparse_deploy.data.encoded import ServedText, WindowMap
from sparse_deploy.data.features import Feature
from sparse_deploy.data.tasks import Task, TaskKind
from sparse_deploy.errors import ArtifactError
from sparse_deploy.machine import threads_to_use
from sparse_deploy.runtimes import Session, get_runtime
from sparse_deploy.runtimes.protocol import read_config
from sparse_deploy.serving.checks import check_answers, check_lengths, ones, served_name, served_task, texts_needed
from sparse_deploy.serving.choice import Choice, choose_runtime
from sparse_deploy.serving.inference_protocol import InferRequest, RequestError, Tensor
from sparse_deploy.serving.settings import ServerSettings
from sparse_deploy.serving.text import TextEncoder, check_rows, count_rows
from sparse_deploy.signing import verify

VERSION = "1"
PLATFORMS = {
    "openvino": "openvino_ir", "openvino-sparse": "openvino_ir", "onnxruntime": "onnx_onnxv1", "sparse": "onnx_onnxv1",
}  # fmt: skip
_WARM_LENGTHS = (8, 32, 128)
_OVERHEAD_ROWS, _OVERHEAD_TOKENS, _OVERHEAD_RUNS = 4, 32, 5


@dataclass(frozen=True)
class Prepared:
    """A request as sequences, and the conversion of their outputs.

    Attributes:
        features: sequences to compute.
        answer: function from the outputs of these sequences to the response's tensors.
    """

    features: list[Feature]
    answer: Callable[[list[Outputs]], list[Tensor]]


@dataclass(frozen=True)
class ServedModel:
    """An opened deployment.

    Attributes:
        name: name in URLs.
        task: its task.
        texts_needed: required texts per row: two if the model was trained on pairs.
        labels: labels of a classification, by id.
        data: settings with the input lengths.
        choice: runtime, precision and the times of the candidates.
        threads: threads of one batch.
        session: the opened file.
        encoder: its tokenizer.
        config: the model's ``config.json``.
        max_rows: largest number of rows or windows of one request.
        max_tokens: largest input length of the model.
        batch_overhead: see :func:`sparse_deploy.serving.row_choice.choose_rows`.
    """

    name: str
    task: Task
    texts_needed: int
    labels: tuple[str, ...]
    data: DataSection
    choice: Choice
    threads: int
    session: Session
    encoder: TextEncoder
    config: dict[str, Any]
    max_rows: int
    max_tokens: int
    batch_overhead: float | None

    @property
    def text_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that take text."""
        return self.task.request_texts[:1] if self.kind is TaskKind.EMBEDDING else self.task.request_texts

    @property
    def tensor_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that take tensors."""
        return architecture_of(self.config).inputs(self.config)

    @property
    def pad_id(self) -> int:
        """The tokenizer's padding token."""
        return int(self.config.get("pad_token_id") or 0)

    @property
    def kind(self) -> TaskKind:
        """The task of the model."""
        return self.task.kind

    def padded_length(self, longest: int) -> int:
        """Padded length of a batch, by the tokens of its longest sequence."""
        multiple = self.choice.length_multiple
        return max(longest, min(math.ceil(longest / multiple) * multiple, self.max_tokens))

    def metadata(self) -> dict[str, Any]:
        """The model's metadata in OIP's form, with text and tensor inputs and their outputs."""
        texts = [_described(name, "BYTES", [-1]) for name in self.text_inputs]
        ids = [_described(name, "INT64", [-1, -1]) for name in self.tensor_inputs]
        width = int(self.config.get("hidden_size") or self.config.get("dim") or 0)
        answers = {
            field.name: _described(field.name, field.datatype, [-1, *field.shape])
            for field in self.task.answer_fields(self.labels, width)
        }
        for output, shape in zip(self.task.outputs, self.task.output_shapes(len(self.labels), width), strict=True):
            answers.setdefault(output.name, _described(output.name, "FP32", [-1, *shape]))
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": PLATFORMS[self.choice.runtime],
            "inputs": texts + ids,
            "outputs": list(answers.values()),
        }

    def prepare(self, request: InferRequest) -> Prepared:
        """Turn a request into sequences.

        Raises:
            RequestError: 400, the inputs are not the model's; 413, a text is too long and must not be truncated.
        """
        if "input_ids" in request.inputs:
            return self._prepare_tensors(request.inputs)
        needed = self.text_inputs[: self.texts_needed]
        if not set(needed) <= request.inputs.keys() <= set(self.text_inputs):
            found = ", ".join(name[:64] for name in request.inputs)
            raise RequestError(
                f"expected inputs {' and '.join(self.text_inputs)} as texts, or {', '.join(self.tensor_inputs)}; got "
                f"{found}"
            )
        columns = [_texts(request.inputs[name]) for name in self.text_inputs if name in request.inputs]
        others = columns[1] if len(columns) > 1 else None
        check_rows(count_rows(columns[0], others, self.text_inputs), self.max_rows)
        if self.kind is TaskKind.QUESTION_ANSWERING:
            return self._prepare_questions(columns[0], others or [])
        features, maps = self.encoder.encode(
            columns[0], others, truncate=request.truncate, spans=self.kind is TaskKind.TOKEN_CLASSIFICATION
        )
        texts = [
            ServedText(row, (window,) if window else ())
            for row, window in zip(zip(*columns, strict=True), maps, strict=True)
        ]
        return Prepared(features, lambda outputs: self._answer(texts, [[row] for row in outputs]))

    def _answer(self, texts: Sequence[ServedText], outputs: Sequence[Sequence[Outputs]]) -> list[Tensor]:
        found = self.task.answers(texts, outputs, self.labels, self.data.max_answer_length)
        return [
            Tensor(name, (len(texts),) if isinstance(values, list) else values.shape, values)
            for name, values in found.items()
        ]

    def _prepare_questions(self, questions: Sequence[str], contexts: Sequence[str]) -> Prepared:
        features: list[Feature] = []
        maps: list[list[WindowMap]] = []
        for question, context in zip(questions, contexts, strict=True):
            windows, window_maps = self.encoder.windows(question, context, self.max_rows - len(features))
            features += windows
            maps.append(window_maps)

        def answer(outputs: list[Outputs]) -> list[Tensor]:
            remaining = iter(outputs)
            per_question = [[next(remaining) for _ in windows] for windows in maps]
            pairs = zip(questions, contexts, strict=True)
            texts = [ServedText(row, windows) for row, windows in zip(pairs, maps, strict=True)]
            return self._answer(texts, per_question)

        return Prepared(features, answer)

    def _prepare_tensors(self, inputs: dict[str, Tensor]) -> Prepared:
        if not inputs.keys() <= set(self.tensor_inputs):
            raise RequestError(
                f"expected inputs {', '.join(self.tensor_inputs)}; got {', '.join(name[:64] for name in inputs)}"
            )
        ids = inputs["input_ids"]
        if len(ids.shape) != 2:
            raise RequestError(f"input_ids: expected shape [rows, tokens], got {list(ids.shape)}")
        check_rows(ids.shape[0], self.max_rows)
        if ids.shape[1] > self.max_tokens:
            raise RequestError(f"input_ids: the model reads at most {self.max_tokens} tokens, got {ids.shape[1]}")
        limits = {
            "input_ids": int(self.config["vocab_size"]),
            "attention_mask": 2,
            "token_type_ids": int(self.config.get("type_vocab_size") or 1),
        }
        defaults = {"attention_mask": np.ones, "token_type_ids": np.zeros}
        arrays = {}
        for name in self.tensor_inputs:
            tensor = inputs.get(name)
            values = defaults[name](ids.shape, np.int64) if tensor is None else tensor.values
            if isinstance(values, list):
                raise RequestError(f"{name}: expected datatype INT64, got BYTES")
            if values.shape != ids.shape:
                raise RequestError(f"{name}: expected shape {list(ids.shape)} of input_ids, got {list(values.shape)}")
            if values.min() < 0 or values.max() >= limits[name]:
                raise RequestError(f"{name}: expected values of 0 to {limits[name] - 1}")
            arrays[name] = values
        if not arrays["attention_mask"].any(axis=1).all():
            raise RequestError("attention_mask: a row has no token")
        features = [{name: values[row] for name, values in arrays.items()} for row in range(ids.shape[0])]
        return Prepared(features, lambda outputs: _stacked(self.task.output_names, outputs))


def open_model(settings: ServerSettings, *, isolated: bool = True) -> ServedModel:
    """Verify a deployment, choose its runtime, and open it.

    Args:
        settings: settings of the server.
        isolated: first open and measure every candidate in a separate process, so that a file that crashes its reader
            causes an error only.

    Raises:
        ConfigError: no such folder, or too many threads for the machine.
        ArtifactError: the deployment is unfinished, altered, or has a file that no runtime can open.
        RuntimeUnavailableError: the requested runtime is not installed.
    """
    folder, threads = settings.deployment, threads_to_use(settings.threads, "--threads")
    manifest = load_manifest(folder, "deployment")
    if settings.verify_key is not None:
        verify(folder, settings.verify_key)
    name = served_name(manifest, settings.name, folder)
    task, config = served_task(manifest, folder), read_config(folder)
    data = _data_section(manifest, folder)
    max_tokens = check_lengths(data, config, folder)
    labels = _labels(config, folder) if task.labels else ()
    questions = task.kind is TaskKind.QUESTION_ANSWERING
    encoder = TextEncoder(folder, data.max_length, data.doc_stride if questions else None)
    choice = choose_runtime(
        folder, settings.runtime, settings.precision, threads, tokens=_typical_length(data, task.kind), measure=isolated
    )
    session = get_runtime(choice.runtime).open(folder, choice.precision, threads)
    check_answers(session, task, labels, name)
    _warm_up(session, name, data.max_length)
    return ServedModel(
        name=name,
        task=task,
        texts_needed=texts_needed(manifest, task),
        labels=labels,
        data=data,
        choice=choice,
        threads=threads,
        session=session,
        encoder=encoder,
        config=config,
        max_rows=min(settings.max_rows, settings.queue),
        max_tokens=max_tokens,
        batch_overhead=_batch_overhead(session, data.max_length) if choice.computes_padding else None,
    )


def _warm_up(session: Session, name: str, max_length: int) -> None:
    """Compute a few shapes, so that the first client does not wait for allocations."""
    for length in (*_WARM_LENGTHS, max_length):
        if not all(np.isfinite(output).all() for output in session.run(ones(1, min(length, max_length)))):
            raise ArtifactError(f"{name}: the model answers with NaN or infinity; export again")


def _batch_overhead(session: Session, max_length: int) -> float:
    """The fixed time of a batch, as the number of tokens that take the same time."""
    tokens = min(_OVERHEAD_TOKENS, max_length)
    one, several = math.inf, math.inf
    for _ in range(_OVERHEAD_RUNS):  # interleaved, because of other processes
        one = min(one, _seconds(session, 1, tokens))
        several = min(several, _seconds(session, _OVERHEAD_ROWS, tokens))
    # On a busy machine, or with a tiny model, a larger batch may not take measurably longer.
    per_row = max(several - one, 0.01 * one) / (_OVERHEAD_ROWS - 1)
    return max(one / per_row - 1, 0.0) * tokens


def _seconds(session: Session, rows: int, tokens: int) -> float:
    inputs = ones(rows, tokens)
    begin = time.perf_counter()
    session.run(inputs)
    return time.perf_counter() - begin


def _typical_length(data: DataSection, kind: TaskKind) -> int:
    """Length of the measured requests: windows of questions are full, GLUE's texts have medians of 25 to 40."""
    return data.max_length if kind is TaskKind.QUESTION_ANSWERING else min(32, data.max_length)


def _data_section(manifest: Manifest, folder: Path) -> DataSection:
    try:
        return DataSection.model_validate(manifest.recipe.get("data") or {})
    except ValueError as error:
        raise ArtifactError(f"{folder}: the manifest's recipe has no readable data section; export again") from error


def _labels(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # Hugging Face does not write the default
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))} or not names:
        raise ArtifactError(f"{folder / 'config.json'}: expected id2label with ids 0 to n-1; export again")
    return tuple(str(names[str(index)]) for index in range(len(names)))


def _texts(tensor: Tensor) -> list[str]:
    if not isinstance(tensor.values, list):
        raise RequestError(f"{tensor.name}: expected datatype BYTES, got INT64")
    if len(tensor.shape) == 2 and tensor.shape[1] != 1:
        raise RequestError(f"{tensor.name}: expected shape [rows] or [rows, 1], got {list(tensor.shape)}")
    return tensor.values


def _stacked(names: Sequence[str], outputs: Sequence[Outputs]) -> list[Tensor]:
    """The model's raw outputs, for tensor inputs with rows of one length."""
    stacked = [np.stack([row[index] for row in outputs]) for index in range(len(names))]
    return [Tensor(name, values.shape, values) for name, values in zip(names, stacked, strict=True)]


def _described(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}
