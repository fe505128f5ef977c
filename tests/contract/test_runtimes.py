# SPDX-License-Identifier: Apache-2.0
"""One suite for every runtime and precision: the contract of a session, and its errors."""

import importlib.util
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from openvino_extension import needs_extension
from openvino_streams import streams_of_openvino
from tiny_deployment import write_models

from sparse_deploy.errors import ArtifactError, RuntimeUnavailableError
from sparse_deploy.runtimes import RUNTIME_NAMES, get_runtime
from sparse_deploy.runtimes.protocol import InputContract, StreamingSession

# It has to be built for the installed OpenVINO, which not every environment has done.
NAMES = [pytest.param(name, marks=needs_extension if name == "openvino-sparse" else ()) for name in RUNTIME_NAMES]
CELLS = [
    pytest.param(name, precision, marks=needs_extension if name == "openvino-sparse" else ())
    for name in RUNTIME_NAMES
    for precision in get_runtime(name).files
]
# Absolute, on logits of magnitude 1. Dynamic INT8 chooses one activation scale per tensor, so what shares a batch with
# a request (padding, neighbours) moves its answer by rounding steps: up to 0.11 seen with PyTorch's 7-bit activations.
TOLERANCE = {"fp32": 1e-5, "int8": 0.2}


@pytest.fixture(scope="module")
def deployment(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment")
    write_models(folder, tiny_encoder, labels=3, sparse_ir=True)
    return folder


@pytest.fixture(scope="module")
def answering_deployment(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answering")
    write_models(folder, tiny_encoder, question_answering=True, sparse_ir=True)
    return folder


def inputs(batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(5, 300, size=(batch, tokens))
    return {
        "input_ids": ids.astype(np.int64),
        "attention_mask": np.ones((batch, tokens), np.int64),
        "token_type_ids": np.zeros((batch, tokens), np.int64),
    }


def padded(batch: dict[str, np.ndarray], to: int) -> dict[str, np.ndarray]:
    return {name: np.pad(array, ((0, 0), (0, to - array.shape[1]))) for name, array in batch.items()}


def open_cell(folder: Path, runtime: str, precision: str):
    if runtime == "pytorch" and precision == "int8":
        pytest.importorskip("sparse_deploy.runtimes.torch_int8")
    return get_runtime(runtime).open(folder, precision, threads=1)


@pytest.mark.parametrize(("runtime", "precision"), CELLS)
class TestEveryCell:
    def test_answers_one_float32_row_per_request(self, deployment, runtime, precision):
        (logits,) = open_cell(deployment, runtime, precision).run(inputs(4, 12))
        assert logits.shape == (4, 3)
        assert logits.dtype == np.float32
        assert np.ptp(logits, axis=0).min() > 1e-3, "different requests must get different answers"

    def test_padding_does_not_change_the_answer(self, deployment, runtime, precision):
        session = open_cell(deployment, runtime, precision)
        batch = inputs(2, 9)
        np.testing.assert_allclose(session.run(padded(batch, 20))[0], session.run(batch)[0], atol=TOLERANCE[precision])

    def test_batch_and_single_requests_agree(self, deployment, runtime, precision):
        session = open_cell(deployment, runtime, precision)
        batch = inputs(5, 16)
        together = session.run(batch)[0]
        alone = [session.run({name: array[i : i + 1] for name, array in batch.items()})[0][0] for i in range(5)]
        np.testing.assert_allclose(together, np.stack(alone), atol=TOLERANCE[precision])

    def test_close_to_pytorch_fp32(self, deployment, runtime, precision):
        expected = open_cell(deployment, "pytorch", "fp32").run(inputs(4, 12))[0]
        found = open_cell(deployment, runtime, precision).run(inputs(4, 12))[0]
        np.testing.assert_allclose(found, expected, atol=1e-4 if precision == "fp32" else 0.3)

    def test_an_answer_outlives_the_next_request(self, deployment, runtime, precision):
        session = open_cell(deployment, runtime, precision)
        first = session.run(inputs(2, 8, seed=1))[0]
        kept = first.copy()
        session.run(inputs(2, 8, seed=2))
        np.testing.assert_array_equal(first, kept)

    def test_files_that_change_later_change_no_answer(self, deployment, tmp_path, runtime, precision):
        """A session that maps its file would compute with the new bytes, and be ended by SIGBUS beyond the new end."""
        shutil.copytree(deployment, tmp_path, dirs_exist_ok=True)
        session, batch = open_cell(tmp_path, runtime, precision), inputs(2, 12)
        expected = session.run(batch)[0].copy()
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        for path in files:
            with path.open("r+b") as stream:
                stream.write(b"\x55" * path.stat().st_size)
        np.testing.assert_array_equal(session.run(batch)[0], expected)
        for path in files:
            os.truncate(path, 0)
        np.testing.assert_array_equal(session.run(batch)[0], expected)

    def test_start_and_end_logits_in_this_order(self, answering_deployment, runtime, precision):
        expected = open_cell(answering_deployment, "pytorch", "fp32").run(inputs(2, 10))
        found = open_cell(answering_deployment, runtime, precision).run(inputs(2, 10))
        assert [array.shape for array in found] == [(2, 10), (2, 10)]
        assert not np.allclose(expected[0], expected[1], atol=0.3), "the two must be told apart"
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=0.3)

    def test_wrong_input_name(self, deployment, runtime, precision):
        batch = inputs(1, 4)
        batch["segment_ids"] = batch.pop("token_type_ids")
        with pytest.raises(ArtifactError, match=r"inputs .*token_type_ids; found .*segment_ids"):
            open_cell(deployment, runtime, precision).run(batch)

    def test_inputs_of_different_shapes(self, deployment, runtime, precision):
        batch = inputs(1, 4)
        batch["attention_mask"] = np.ones((1, 7), np.int64)  # every runtime would answer, from the first 4 columns
        with pytest.raises(ArtifactError, match=r"\(1, 4\).*\(1, 7\)"):
            open_cell(deployment, runtime, precision).run(batch)

    def test_longer_than_the_model_reads(self, deployment, runtime, precision):
        with pytest.raises(ArtifactError, match=r"at most 128 tokens; got 129"):
            open_cell(deployment, runtime, precision).run(inputs(1, 129))

    def test_the_runtimes_own_error(self, deployment, runtime, precision):
        batch = {name: array.reshape(1, 2, 2) for name, array in inputs(1, 4).items()}
        with pytest.raises(ArtifactError, match=r"failed on a batch"):
            open_cell(deployment, runtime, precision).run(batch)

    def test_missing_file(self, tmp_path, runtime, precision):
        with pytest.raises(ArtifactError, match=r"needs this file"):
            get_runtime(runtime).open(tmp_path, precision, threads=1)

    def test_damaged_file(self, deployment, tmp_path, runtime, precision):
        for source in deployment.iterdir():
            (tmp_path / source.name).write_bytes(source.read_bytes())
        file = tmp_path / get_runtime(runtime).files[precision]
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(ArtifactError) as caught:
            get_runtime(runtime).open(tmp_path, precision, threads=1)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unknown_precision(tmp_path):
    with pytest.raises(ArtifactError, match="expected precision fp32 or int8, found 'fp8'"):
        get_runtime("onnxruntime").open(tmp_path, "fp8", threads=1)


def test_unknown_runtime():
    with pytest.raises(RuntimeUnavailableError, match="found 'tensorrt'"):
        get_runtime("tensorrt")


@pytest.mark.parametrize("name", NAMES)
def test_availability_is_what_python_finds(name, monkeypatch):
    runtime = get_runtime(name)
    assert runtime.available()
    assert runtime.version()
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    assert not runtime.available()


def streaming_cells():
    return [cell for cell in CELLS if "throughput" in get_runtime(cell.values[0]).hints]


def streams_of(folder: Path, runtime: str, precision: str, threads: int = 2) -> StreamingSession:
    session = get_runtime(runtime).open(folder, precision, threads, "throughput")
    assert isinstance(session, StreamingSession)
    return session


@pytest.mark.parametrize(("runtime", "precision"), streaming_cells())
class TestStreams:
    def test_answers_are_those_of_single_batches_in_order(self, deployment, runtime, precision):
        session = streams_of(deployment, runtime, precision)
        # Long before short ones: a later batch is done before an earlier one.
        batches = [inputs(1 + number % 4, 100 - 7 * (number % 14), seed=number) for number in range(40)]
        alone = open_cell(deployment, runtime, precision)
        answers = list(session.run_all(batches))
        assert len(answers) == len(batches)
        for (found,), batch in zip(answers, batches, strict=True):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, alone.run(batch)[0], atol=1e-5)
        np.testing.assert_allclose(session.run(batches[0])[0], answers[0][0], atol=1e-5)

    def test_start_and_end_logits_in_this_order(self, answering_deployment, runtime, precision):
        batches = [inputs(2, 10 + number, seed=number) for number in range(6)]
        alone = open_cell(answering_deployment, runtime, precision)
        for found, batch in zip(
            streams_of(answering_deployment, runtime, precision).run_all(batches), batches, strict=True
        ):
            for ours, theirs in zip(found, alone.run(batch), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def test_streams_share_the_threads(self, deployment, runtime, precision):
        assert streams_of(deployment, runtime, precision, threads=1).streams == 1
        chosen = streams_of_openvino(deployment / "openvino_model.xml", threads=2)
        assert streams_of(deployment, runtime, precision, threads=2).streams == chosen

    def test_batches_are_taken_as_there_is_room(self, deployment, runtime, precision):
        taken = itertools.count()
        endless = (inputs(1, 5, seed=next(taken)) for _ in itertools.repeat(None))
        first = list(itertools.islice(streams_of(deployment, runtime, precision).run_all(endless), 50))
        assert len(first) == 50
        assert next(taken) < 60

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (inputs(1, 129), r"at most 128 tokens; got 129"),
            ({name: array.reshape(1, 2, 2) for name, array in inputs(1, 4).items()}, r"failed on a batch"),
            (inputs(2, 8) | {"token_type_ids": np.ones((3, 8), np.int64)}, r"failed on a batch"),
        ],
        ids=["contract", "before computing", "while computing"],
    )
    def test_a_failing_batch_raises_in_its_turn(self, deployment, runtime, precision, bad, reason, monkeypatch):
        if bad["token_type_ids"].shape == (3, 8):
            monkeypatch.setattr(InputContract, "check", lambda self, inputs: None)
        session = streams_of(deployment, runtime, precision)
        batches = [inputs(2, 8, seed=number) for number in range(12)]
        answers = session.run_all([*batches[:7], bad, *batches[7:]])
        for batch in batches[:7]:
            np.testing.assert_allclose(next(answers)[0], session.run(batch)[0], atol=1e-5)
        with pytest.raises(ArtifactError, match=reason) as caught:
            next(answers)
        assert "\n" not in str(caught.value)
        assert len(list(session.run_all(batches))) == len(batches), "the session is not spoilt"

    def test_whoever_stops_asking_can_ask_again(self, deployment, runtime, precision):
        session = streams_of(deployment, runtime, precision)
        answers = session.run_all(inputs(3, 20, seed=number) for number in range(20))
        next(answers)
        answers.close()
        batch = inputs(2, 8)
        (found,) = session.run_all([batch])
        np.testing.assert_allclose(found[0], session.run(batch)[0], atol=1e-5)
        assert list(session.run_all([])) == []


def test_only_sessions_of_a_runtime_with_the_hint_are_streams(deployment):
    for name in ("onnxruntime", "openvino"):
        runtime = get_runtime(name)
        session = runtime.open(deployment, "fp32", 1, "throughput")
        assert isinstance(session, StreamingSession) == ("throughput" in runtime.hints) == (name == "openvino")
        assert not isinstance(runtime.open(deployment, "fp32", 1), StreamingSession)
