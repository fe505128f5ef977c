# SPDX-License-Identifier: Apache-2.0
"""Two replicas of the server on a Ray of this machine: the conformance of the plain server, and an orderly end."""

import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from reliability.server_process import ServerProcess, serving, texts
from serving_conformance import Conformance

from sparse_deploy.errors import ExitCode

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two replicas need two CPUs")


@pytest.fixture(scope="module")
def server(tiny_deployment, tmp_path_factory):
    environment = {"RAY_ADDRESS": ""}
    log = tmp_path_factory.mktemp("log") / "log"
    arguments = ("--replicas", "2", "--runtime", "sparse", "--drain-seconds", "0.5")
    with serving(tiny_deployment, log, *arguments, environment=environment) as process:
        yield process


class TestConformance(Conformance):
    pass


def test_both_replicas_answer(server):
    counted: set[str] = set()
    limit = time.monotonic() + 60
    while len(counted) < 2 and time.monotonic() < limit:
        assert server.infer(texts("text", "x")).status == 200
        counted |= set(re.findall(r'^sparse_deploy_model_info{.*pid="(\d+)"', metrics(server), re.MULTILINE))
    assert len(counted) == 2


def test_nobody_else_can_reach_ray(server):
    """Ray's sockets are on the loopback address; Serve's own, which reads pickles, asks for the token."""
    grpc = pytest.importorskip("grpc")
    from ray.serve.generated import serve_pb2, serve_pb2_grpc

    tree = [server.process.pid, *(child.pid for child in psutil.Process(server.process.pid).children(recursive=True))]
    listening = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.pid in tree]
    assert listening
    open_ports = {one.laddr.port for one in listening if one.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")}
    for port in open_ports:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        with pytest.raises(grpc.RpcError) as refused:
            serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest(serve_pb2.ASGIRequest(), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        channel.close()


def test_more_replicas_than_cpus_are_refused(tiny_deployment, tmp_path):
    with pytest.raises(AssertionError, match=r"--replicas: 2 with 1000 threads each need 2000 CPUs"):
        ServerProcess(tiny_deployment, tmp_path / "log", "--replicas", "2", "--threads", "1000")


def test_sigterm_ends_everything(server):
    """The last test: it ends the server of all others."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    scratch = {part for child in children for part in re.findall(r"\S*/sdray-[^/\s]+", " ".join(child.cmdline()))}
    assert scratch
    assert server.stop(signal.SIGTERM, timeout=60) == ExitCode.OK
    assert [event["event"] for event in server.events()] == ["serving", "draining", "stopped"]
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not [folder for folder in scratch if Path(folder).exists()]


def metrics(server: ServerProcess) -> str:
    return server.request("GET", "/metrics").body.decode()
