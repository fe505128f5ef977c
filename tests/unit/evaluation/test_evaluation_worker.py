# SPDX-License-Identifier: Apache-2.0
"""Real worker processes: their results, and the errors when one fails, ends or hangs."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from openvino_streams import streams_of_openvino
from tiny_deployment import export_onnx

from sparse_deploy.errors import ArtifactError, ExitCode, WorkerError
from sparse_deploy.evaluation.requests import Requests
from sparse_deploy.evaluation.worker import MODULE
from sparse_deploy.export.openvino import convert_to_ir
from sparse_deploy.measurement.worker_process import WorkerProcess, Workers
from sparse_deploy.runtimes import get_runtime
from sparse_deploy.runtimes.child_process import worker_environment


@pytest.fixture(scope="module")
def folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForSequenceClassification

    target = tmp_path_factory.mktemp("worker")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder).eval()
    model.config.save_pretrained(target)
    export_onnx(model, ["logits"], target / "model.onnx")
    convert_to_ir(target / "model.onnx", target / "openvino_model.xml")
    lengths = [4, 30, 7, 7, 15, 22]
    ids = [np.random.default_rng(n).integers(5, 300, size=n) for n in lengths]
    features = [
        {"input_ids": i, "attention_mask": np.ones(len(i), np.int64), "token_type_ids": np.zeros(len(i), np.int64)}
        for i in ids
    ]
    Requests.from_features(features).save(target / "requests.npz")
    return target


@pytest.fixture
def workers(tmp_path):
    with Workers(MODULE, 1, tmp_path, silence_seconds=60) as started:
        yield started


def opened(workers: Workers, folder: Path, runtime: str = "onnxruntime", threads: int = 1) -> WorkerProcess:
    worker = workers.start(f"{runtime}-fp32")
    worker.call(
        "open", runtime=runtime, precision="fp32", folder=str(folder), threads=threads,
        requests=str(folder / "requests.npz"),
    )  # fmt: skip
    return worker


def test_predictions_are_those_of_the_session_in_request_order(workers, folder, tmp_path):
    opened(workers, folder).call(
        "predict",
        requests=str(folder / "requests.npz"),
        batch_size=4,
        output=str(tmp_path / "out.npz"),
        per_token=[False],
    )
    with np.load(tmp_path / "out.npz") as stored:
        found = stored["0"].reshape(6, 2)
        assert stored["sizes"].tolist() == [2] * 6
    requests = Requests.load(folder / "requests.npz")
    session = get_runtime("onnxruntime").open(folder, "fp32", threads=1)
    expected = np.concatenate([session.run(requests.batch([i]))[0] for i in range(6)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_blocks_are_whole_passes_of_at_least_the_time(workers, folder):
    worker = opened(workers, folder)
    start = time.perf_counter()
    samples = worker.call("latency", indices=[0, 1, 2], seconds=0.2)["samples_ms"]
    assert time.perf_counter() - start >= 0.2
    assert len(samples) % 3 == 0
    assert all(ms > 0 for ms in samples)
    assert len(worker.call("latency", indices=[0, 1, 2], seconds=0.0)["samples_ms"]) == 3

    block = worker.call("throughput", batches=[[0, 2], [1, 5]], seconds=0.0)
    assert block["examples"] == 4
    assert block["tokens"] == 4 + 7 + 30 + 22, "padding is no work done"

    warm = worker.call("warm_up", indices=[0, 1], seconds=0.5)
    assert warm["median_ms"] > 0
    assert len(worker.call("shape", batch=2, tokens=16, seconds=0.0, least=4)["samples_ms"]) == 4
    assert worker.call("rss")["rss_bytes"] > 10_000_000


def test_a_block_of_streams_is_whole_passes_and_enough_of_them(workers, folder):
    worker = opened(workers, folder, "openvino", threads=2)
    streams = worker.call("open_streams", batches=[[1, 5], [0, 2]])["streams"]
    assert streams == streams_of_openvino(folder / "openvino_model.xml", threads=2)

    block = worker.call("stream", batches=[[1, 5], [0, 2], [3]], seconds=0.0)
    passes = math.ceil(4 * streams / 3)  # the tail, where streams are idle, must be a small part
    assert block["examples"] == passes * 5
    assert block["tokens"] == passes * (30 + 22 + 4 + 7 + 7)
    assert block["seconds"] > 0

    block = worker.call("stream", batches=[[1, 5], [0, 2], [3]], seconds=0.3)
    assert block["seconds"] >= 0.3
    assert block["examples"] > 5 * passes
    assert block["examples"] % 5 == 0
    assert worker.call("throughput", batches=[[3]], seconds=0.0)["examples"] == 1, "the first session is still there"


def test_a_runtime_without_the_hint_has_no_streams(workers, folder):
    worker = opened(workers, folder)
    with pytest.raises(WorkerError, match=r"'open_streams'; it last wrote: .*has no throughput hint"):
        worker.call("open_streams", batches=[[0]])


def test_opening_reports_its_times(workers, folder):
    worker = workers.start("cell")
    found = worker.call(
        "open", runtime="onnxruntime", precision="fp32", folder=str(folder), threads=1,
        requests=str(folder / "requests.npz"),
    )  # fmt: skip
    assert found["version"] == get_runtime("onnxruntime").version()
    assert found["load_ms"] > 0
    assert found["first_inference_ms"] > 0


def test_the_workers_own_error_arrives_with_its_class(workers, folder, tmp_path):
    worker = workers.start("cell")
    with pytest.raises(ArtifactError, match=r"model\.onnx: onnxruntime fp32 needs this file"):
        worker.call(
            "open", runtime="onnxruntime", precision="fp32", folder=str(tmp_path), threads=1,
            requests=str(folder / "requests.npz"),
        )  # fmt: skip


def test_a_killed_worker_is_an_error_that_names_the_cell(workers, folder):
    worker = opened(workers, folder)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"onnxruntime-fp32: .*SIGKILL.*'latency'") as caught:
        worker.call("latency", indices=[0], seconds=0.1)
    assert caught.value.cell == "onnxruntime-fp32"
    assert caught.value.exit_code == ExitCode.INCONCLUSIVE


def test_a_crash_while_opening_speaks_of_the_file(workers, folder):
    worker = workers.start("onnxruntime-fp32")
    os.kill(worker.pid, signal.SIGSEGV)
    with pytest.raises(ArtifactError, match=r"onnxruntime-fp32: .*SIGSEGV.*model file may be damaged"):
        worker.call("open", runtime="onnxruntime", precision="fp32", folder=str(folder), threads=1, requests="x")


def test_a_bug_in_a_worker_shows_its_last_words(workers):
    worker = workers.start("cell")
    with pytest.raises(WorkerError, match=r"exit code 1 during 'latency'; it last wrote: .*no model was opened"):
        worker.call("latency", indices=[0], seconds=0.0)


def test_a_hung_worker_does_not_hang_the_parent(tmp_path, folder):
    with Workers(MODULE, 1, tmp_path, silence_seconds=0.5) as workers:
        worker = workers.start("stuck")
        os.kill(worker.pid, signal.SIGSTOP)
        start = time.perf_counter()
        with pytest.raises(WorkerError, match=r"stuck: .*did not respond for 0\.5 s during 'rss'"):
            worker.call("rss")
        assert time.perf_counter() - start < 10
        assert not alive(worker.pid)


def test_long_work_shows_signs_of_life(tmp_path, folder):
    with Workers(MODULE, 1, tmp_path, silence_seconds=60) as workers:
        worker = opened(workers, folder)
        worker._silence = 3.0  # longer than the interval of the signs, shorter than the block
        assert worker.call("latency", indices=[0], seconds=4.0)["samples_ms"]


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, RuntimeError])
def test_no_worker_outlives_its_run(tmp_path, ending):
    pids = []
    try:
        with Workers(MODULE, 1, tmp_path) as workers:
            pids = [workers.start("a").pid, workers.start("b").pid]
            if ending:
                raise ending
    except (KeyboardInterrupt, RuntimeError):
        pass
    assert not any(alive(pid) for pid in pids)


def test_a_worker_ends_when_its_parent_is_gone():
    with subprocess.Popen(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as worker:
        worker.stdin.close()
        assert worker.wait(30) == 0


def test_a_busy_worker_ends_when_its_parent_is_killed(folder, tmp_path):
    code = f"""
import os, pathlib, signal, threading
from sparse_deploy.measurement.worker_process import WorkerProcess
worker = WorkerProcess({MODULE!r}, "cell", 1, pathlib.Path({str(tmp_path)!r}))
requests = {str(folder / "requests.npz")!r}
worker.call("open", runtime="onnxruntime", precision="fp32", folder={str(folder)!r}, threads=1, requests=requests)
print(worker.pid, flush=True)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
worker.call("latency", indices=[0], seconds=600.0)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert parent.wait(60) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_workers_import_no_more_than_they_need():
    code = "import sys, sparse_deploy.evaluation.worker; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "onnxruntime", "openvino", "datasets", "pydantic"} & set(out)


def test_thread_pools_are_sized_before_the_runtime_is_imported():
    environment = worker_environment(3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["HF_HUB_OFFLINE"] == "1"


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
