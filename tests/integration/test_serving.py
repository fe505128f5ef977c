# SPDX-License-Identifier: Apache-2.0
"""The server as a process: conformance, tasks, bad clients, bad deployments, signals."""

import contextlib
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from reliability.server_process import ServerProcess, serving, texts
from serving_conformance import Conformance
from tiny_deployment import BENCH_RECIPE, seal_deployment, write_models

from sparse_deploy.errors import ExitCode
from sparse_deploy.serving.connections import MAX_PIPELINED


@pytest.fixture(scope="module")
def server(tiny_deployment, tmp_path_factory):
    with serving(tiny_deployment, tmp_path_factory.mktemp("log") / "log", "--runtime", "sparse") as process:
        yield process


@pytest.fixture(scope="module")
def answering(sparse_encoder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("answering") / "deployment"
    folder.mkdir()
    write_models(folder, sparse_encoder, question_answering=True)
    recipe = {**BENCH_RECIPE, "name": "answers", "task": "squad", "data": {"max_length": 100, "doc_stride": 16}}
    seal_deployment(folder, recipe)
    return folder


class TestConformance(Conformance):
    pass


def test_the_fastest_candidate_is_measured_and_taken(tiny_deployment, tmp_path):
    with serving(tiny_deployment, tmp_path / "log") as server:
        (event,) = [event for event in server.events() if event["event"] == "serving"]
        assert set(event["candidates"]) == {"sparse-int8", "openvino-int8"}
        assert event["candidates"][event["runtime"]] == min(event["candidates"].values())
        assert server.infer(texts("text", "x")).status == 200


def test_serving_imports_no_training_library(tiny_deployment):
    """A server's environment has none of them, so an import would end it there."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import sparse_deploy.serving.server\n"
        "from sparse_deploy.serving.model import open_model\n"
        "from sparse_deploy.serving.settings import ServerSettings\n"
        f"open_model(ServerSettings(deployment=Path({str(tiny_deployment)!r})))\n"
        "unwanted = {'torch', 'transformers', 'onnx', 'datasets', 'sklearn', 'scipy', 'matplotlib', 'jinja2'}\n"
        "sys.exit(', '.join(sorted(unwanted & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class TestQuestionAnswering:
    CONTEXT = "The sparse engine keeps every zero of its weights. " * 12

    @pytest.fixture(scope="class")
    def server(self, answering, tmp_path_factory):
        with serving(answering, tmp_path_factory.mktemp("log") / "log", "--runtime", "sparse") as process:
            yield process

    def test_answers_lie_where_they_say_and_are_the_best_of_all_windows(self, server, answering):
        from datasets import Dataset

        from sparse_deploy.config.schema import DataSection
        from sparse_deploy.data.batches import pad_batch
        from sparse_deploy.data.features import encode_split, load_tokenizer
        from sparse_deploy.data.squad import best_answer
        from sparse_deploy.data.tasks import get_task
        from sparse_deploy.runtimes import get_runtime

        question = "what keeps every zero?"
        row = {
            "id": "1",
            "question": question,
            "context": self.CONTEXT,
            "answers": {"text": ["x"], "answer_start": [0]},
        }
        data = DataSection(max_length=100, doc_stride=16)
        split = encode_split(get_task("squad"), Dataset.from_list([row]), load_tokenizer(answering), data)
        assert len(split.features) > 1
        session = get_runtime("sparse").open(answering, "int8", 1)
        logits = [tuple(values[0] for values in session.run(pad_batch([feature]))) for feature in split.features]
        expected = best_answer(self.CONTEXT, split.windows, logits, max_answer_length=data.max_answer_length)

        found = server.infer(texts("question", question, question), texts("context", self.CONTEXT, "short one")).outputs
        start, end = found["start"][0], found["end"][0]
        assert found["answer"][0] == self.CONTEXT[start:end] == expected.text
        assert found["score"][0] == pytest.approx(expected.score, abs=0.1)
        assert found["answer"][1] in "short one"

    def test_a_context_without_a_word(self, server):
        found = server.infer(texts("question", "why?"), texts("context", "  ")).outputs
        assert (found["answer"], found["start"], found["end"]) == ([""], [0], [0])

    def test_too_long_a_context(self, server):
        reply = server.infer(texts("question", "why?"), texts("context", "word " * 30_000))
        assert reply.status == 413
        assert "rows or windows" in reply.json["error"]

    def test_a_question_needs_its_context(self, server):
        assert "expected inputs question and context" in server.infer(texts("question", "why?")).json["error"]


def test_regression(sparse_encoder, tmp_path):
    folder = tmp_path / "deployment"
    folder.mkdir()
    write_models(folder, sparse_encoder, labels=1)
    seal_deployment(folder, {**BENCH_RECIPE, "task": "stsb"})
    with serving(folder, tmp_path / "log", "--runtime", "onnxruntime", "--name", "likeness") as server:
        found = server.infer(texts("text", "a", "b"), texts("text_pair", "b", "c")).outputs
        assert list(found) == ["score"]
        assert np.isfinite(found["score"]).all()
        assert server.name == "likeness"


def test_a_token_guards_all_but_health(tiny_deployment, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    with serving(
        tiny_deployment, tmp_path / "log", "--runtime", "onnxruntime", "--token-file", str(tmp_path / "token")
    ) as server:
        path = f"/v2/models/{server.name}"
        assert server.request("GET", "/v2/health/ready").status == 200
        assert server.request("GET", path).status == 401
        assert server.infer(texts("text", "x")).status == 401
        wrong, right = ({"Authorization": f"Bearer {token}"} for token in ("s3cre", "s3cret"))
        assert server.request("GET", path, headers=wrong).status == 401
        assert server.request("GET", path, headers=right).status == 200
        assert server.request("GET", path, headers={"Authorization": "bearer  s3cret"}).status == 200
        assert "s3cret" not in (tmp_path / "log").read_text()


class TestBadClients:
    @pytest.fixture(scope="class")
    def server(self, tiny_deployment, tmp_path_factory):
        environment = {
            "SPARSE_DEPLOY_BODY_TIMEOUT_MS": "1000",
            "SPARSE_DEPLOY_HEADER_TIMEOUT_MS": "1000",
            "SPARSE_DEPLOY_WRITE_TIMEOUT_MS": "1000",
            "SPARSE_DEPLOY_MAX_CONNECTIONS": "40",
        }
        log = tmp_path_factory.mktemp("log") / "log"
        with serving(tiny_deployment, log, "--runtime", "onnxruntime", environment=environment) as process:
            yield process

    def connect(self, server: ServerProcess) -> socket.socket:
        host, port = server.address.split(":")
        return socket.create_connection((host, int(port)), timeout=10)

    @pytest.mark.parametrize("sent", [b"", b"POST /v2 HT", b"POST /v2/models/tiny/infer HTTP/1.1\r\nA: b\r\n"])
    def test_headers_that_never_end_lose_their_connection(self, server, sent):
        with self.connect(server) as client:
            begin = time.monotonic()
            client.sendall(sent)
            assert client.recv(100) == b""
            assert time.monotonic() - begin < 5

    def test_a_body_that_never_ends_is_408(self, server):
        with self.connect(server) as client:
            client.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert client.recv(1000).startswith(b"HTTP/1.1 408")

    def test_garbage_is_400(self, server):
        with self.connect(server) as client:
            client.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 400")

    @pytest.mark.parametrize("header", [b"A: " + b"x" * 100_000, (b"A: " + b"x" * 1000 + b"\r\n") * 100])
    def test_headers_of_any_size_are_431(self, server, header):
        with self.connect(server) as client:
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\n" + header)
            assert client.recv(1000).startswith(b"HTTP/1.1 431")

    def test_pipelined_requests_are_answered_up_to_a_limit(self, server):
        """The first ones in order; then the connection closes, and a client would ask again on another one."""
        with self.connect(server) as client:
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            found = b""
            while found.count(b'{"live":true}') < 3:
                found += client.recv(65536)
            with contextlib.suppress(OSError):
                client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
            found = b""
            with contextlib.suppress(OSError):
                while part := client.recv(65536):
                    found += part
            assert 1 <= found.count(b'{"live":true}') <= 1 + MAX_PIPELINED

    def test_a_request_to_upgrade_is_answered_without(self, server):
        """As Java's HttpClient sends it."""
        body = json.dumps({"inputs": [texts("text", "x")]}).encode()
        head = (
            b"POST /v2/models/tiny/infer HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Content-Length: %d\r\nHost: x\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\nUpgrade: h2c\r\n\r\n"
        ) % len(body)
        for pieces in ([head + body], [head, body[:5], body[5:]]):
            with self.connect(server) as client:
                for piece in pieces:
                    client.sendall(piece)
                    time.sleep(0.01)
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
                client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200")

    @pytest.mark.parametrize("name", [b"Content-Length", b"Inference-Header-Content-Length"])
    def test_numbers_of_any_length_are_refused(self, server, name):
        with self.connect(server) as client:
            client.sendall(
                b"POST /v2/models/tiny/infer HTTP/1.1\r\n" + name + b": " + b"9" * 5000 + b"\r\nHost: x\r\n\r\n"
            )
            assert client.recv(1000).startswith(b"HTTP/1.1 400")

    @pytest.mark.parametrize("target", [b"CONNECT a:1", b"GET http://[::", b"GET /\xff\xfe"])
    def test_targets_that_are_no_path_are_refused_without_a_trace(self, server, target):
        with self.connect(server) as client:
            client.sendall(target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 4")

    def test_probes_are_answered_beyond_the_limit_of_connections(self, server):
        waiting = [self.connect(server) for _ in range(45)]
        try:
            assert server.request("GET", "/v2/health/live").status == 200
            refused = server.request("GET", "/v2")
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        finally:
            for client in waiting:
                client.close()

    def test_clients_that_never_read_lose_their_connection(self, server):
        client = self.connect(server)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 10
        with contextlib.suppress(OSError):  # reset, or a broken pipe
            while True:  # the server stops reading, then cuts
                client.sendall(request)
        client.close()
        assert server.infer(texts("text", "x")).status == 200

    def test_pipelined_clients_that_leave_are_no_news(self, server):
        for _ in range(10):
            with self.connect(server) as client:
                client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert server.infer(texts("text", "x")).status == 200
        assert "Traceback" not in server.log()

    def test_clients_that_leave_do_not_hurt_the_others(self, server):
        body = json.dumps({"inputs": [texts("text", *["word " * 100] * 200)]}).encode()
        head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        for _ in range(20):
            with self.connect(server) as client:
                client.sendall(head + body)
        assert server.infer(texts("text", "x")).status == 200

    def test_a_chunked_body_is_counted(self, server):
        with self.connect(server) as client:
            client.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            try:
                for _ in range(80):
                    client.sendall(chunk)
            except OSError:
                pass
            assert client.recv(1000).startswith(b"HTTP/1.1 413")


def test_documented_and_undocumented_requests_get_documented_answers(server):
    """Schemathesis makes requests from the OpenAPI document, right and wrong ones, and checks every answer."""
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"http://{server.address}/openapi.json",
        "--max-examples", "40", "--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color",
        "--exclude-checks", "positive_data_acceptance,unsupported_method,missing_required_header",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:]


def test_probes_are_answered_while_the_largest_text_is_tokenized(server):
    """Full stops are one token each, so this is the longest work that one request makes of its text."""
    replies = []
    client = threading.Thread(target=lambda: replies.append(server.infer(texts("text", "." * 500_000))))
    client.start()
    seen = False
    while not seen and client.is_alive():
        seen = 'requests_open{model="tiny"} 1.0' in server.request("GET", "/metrics").body.decode()
        assert server.request("GET", "/v2/health/live").status == 200
    client.join()
    assert seen
    assert replies[0].status == 200
    assert server.infer(texts("text", "." * 500_001)).status == 413


HELD_AT_THE_DOOR = """
import os, time
import sparse_deploy.serving.server as server
from sparse_deploy.cli.main import main
from sparse_deploy.serving.logs import log
shutdown = server._DrainingServer.shutdown
async def held(self, sockets=None):
    log("held")
    while not os.path.exists(os.environ["GO"]):
        time.sleep(0.01)
    await shutdown(self, sockets)
server._DrainingServer.shutdown = held
main()
"""


class TestSignals:
    def test_sigterm_loses_no_accepted_request(self, tiny_deployment, tmp_path):
        """Clients that keep sending, over connections that stay, while the server is told to go."""
        with serving(tiny_deployment, tmp_path / "log", "--runtime", "onnxruntime", "--drain-seconds", "3") as server:
            lost, answered, refused = [], [], []

            def client() -> None:
                import http.client

                connection = http.client.HTTPConnection(server.address, timeout=30)
                body = json.dumps({"inputs": [texts("text", "word " * 30)]})
                while True:
                    try:
                        if connection.sock is None:
                            connection.connect()
                    except OSError:
                        refused.append(1)
                        return
                    try:
                        connection.request("POST", f"/v2/models/{server.name}/infer", body)
                        response = connection.getresponse()
                        response.read()
                        answered.append(response.status)
                        if response.getheader("connection") == "close":
                            connection.close()
                    except (OSError, http.client.HTTPException) as error:
                        lost.append(repr(error))
                        return

            threads = [threading.Thread(target=client) for _ in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            limit = time.monotonic() + 2
            while server.request("GET", "/v2/health/ready").status != 503:
                assert time.monotonic() < limit
            assert server.request("GET", "/v2/health/live").status == 200
            code = server.process.wait(20)
            for thread in threads:
                thread.join()
            assert code == 0
            assert not lost
            assert set(answered) == {200}
            assert len(refused) == 8
            assert server.events()[-1]["event"] == "stopped"

    def test_connections_that_nobody_accepted_are_answered_before_the_listener_closes(self, tiny_deployment, tmp_path):
        """The kernel makes them while the server is busy with its end; closing alone would reset them."""
        arguments = ("--runtime", "onnxruntime", "--drain-seconds", "0")
        options = {"program": ("-c", HELD_AT_THE_DOOR), "environment": {"GO": str(tmp_path / "go")}}
        with (
            serving(tiny_deployment, tmp_path / "log", *arguments, **options) as server,
            contextlib.ExitStack() as open_,
        ):
            host, port = server.address.split(":")
            server.process.send_signal(signal.SIGTERM)
            while server.events()[-1]["event"] != "held":
                time.sleep(0.01)
            body = json.dumps({"inputs": [texts("text", "x")]}).encode()
            head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            clients = [open_.enter_context(socket.create_connection((host, int(port)), 10)) for _ in range(40)]
            for client in clients:
                client.sendall(head + body)
            (tmp_path / "go").touch()
            for client in clients:
                reply = client.makefile("rb").read()
                assert reply.startswith(b"HTTP/1.1 200"), reply
                assert b"connection: close" in reply
            assert server.process.wait(20) == 0
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)), 10)

    def test_a_second_signal_ends_it_at_once(self, tiny_deployment, tmp_path):
        with serving(tiny_deployment, tmp_path / "log", "--runtime", "onnxruntime", "--drain-seconds", "60") as server:
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            begin = time.monotonic()
            assert server.stop(signal.SIGTERM) == 0
            assert time.monotonic() - begin < 5


STUCK = """
import time
import sparse_deploy.serving.server as server
from sparse_deploy.cli.main import main
opened = server.open_model
def open_stuck(settings):
    model = opened(settings)
    model.session.run = lambda inputs: time.sleep(300)
    return model
server.open_model = open_stuck
main()
"""


class TestStuckBatch:
    """A batch that takes minutes: nothing can interrupt it, and nothing waits for it."""

    @pytest.mark.parametrize(("first", "second"), [(signal.SIGHUP, None), (signal.SIGTERM, signal.SIGTERM)])
    def test_the_end_comes_in_time_and_the_client_hears_of_it(self, tiny_deployment, tmp_path, first, second):
        drain = "60" if second else "0"
        arguments = ("--runtime", "onnxruntime", "--timeout-ms", "60000", "--drain-seconds", drain)
        arguments += ("--shutdown-seconds", "1")
        with serving(tiny_deployment, tmp_path / "log", *arguments, program=("-c", STUCK)) as server:
            replies = []
            client = threading.Thread(target=lambda: replies.append(server.infer(texts("text", "x"))))
            client.start()
            while 'requests_open{model="tiny"} 1.0' not in server.request("GET", "/metrics").body.decode():
                time.sleep(0.01)
            server.process.send_signal(first)
            if second:
                while server.request("GET", "/v2/health/ready").status != 503:
                    time.sleep(0.01)
                server.process.send_signal(second)
            assert server.process.wait(30) == 0
            client.join()
            assert (replies[0].status, replies[0].headers["retry-after"]) == (503, "1")
            assert "shutting down" in replies[0].json["error"]
            assert server.events()[-1]["event"] == "stopped"
            assert "Traceback" not in server.log()

    def test_probes_say_that_nothing_is_computed_any_more(self, tiny_deployment, tmp_path):
        arguments = ("--runtime", "onnxruntime", "--timeout-ms", "100")
        with serving(tiny_deployment, tmp_path / "log", *arguments, program=("-c", STUCK)) as server:
            assert server.request("GET", "/v2/health/live").json == {"live": True}
            assert server.infer(texts("text", "x")).status == 504
            while server.request("GET", "/v2/health/ready").json["ready"]:
                time.sleep(0.01)
            while server.request("GET", "/v2/health/live").json["live"]:
                time.sleep(0.01)
            assert server.request("GET", "/v2/health/live").status == 503


class TestStart:
    def serve(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sparse_deploy", "serve", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def expect(self, code: ExitCode, message: str, *arguments: str) -> None:
        done = self.serve(*arguments)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr

    def test_no_folder(self, tmp_path):
        self.expect(ExitCode.USAGE, "no such folder", str(tmp_path / "nope"))

    def test_a_checkpoint(self, trained_checkpoint):
        self.expect(ExitCode.BAD_ARTIFACT, "expected a deployment folder, found a checkpoint", str(trained_checkpoint))

    def test_an_altered_file(self, tiny_deployment, tmp_path):
        folder = tmp_path / "copy"
        shutil.copytree(tiny_deployment, folder)
        with (folder / "model_int8.onnx").open("r+b") as stream:
            stream.seek(1000)
            stream.write(b"\xff")
        self.expect(ExitCode.BAD_ARTIFACT, "not the one that the manifest describes", str(folder))

    def test_a_port_in_use(self, server, tiny_deployment):
        port = server.address.split(":")[1]
        self.expect(ExitCode.USAGE, "can't listen on 127.0.0.1:", str(tiny_deployment), "--port", port)

    def test_a_wrong_option(self, tiny_deployment):
        message = "--max-batch: Input should be greater than or equal to 1; got 0"
        self.expect(ExitCode.USAGE, message, str(tiny_deployment), "--max-batch", "0")
