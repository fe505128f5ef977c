# SPDX-License-Identifier: Apache-2.0
"""Starts the server in a separate process and sends requests over HTTP."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class ServerProcess:
    """A running ``sparse-deploy serve``, or another program with the same arguments.

    Attributes:
        url: URL of the model, such as ``http://127.0.0.1:4711/v2/models/tiny``.
    """

    def __init__(
        self,
        deployment: Path,
        log: Path,
        *arguments: str,
        environment: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "sparse_deploy"),
    ) -> None:
        self._log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, *program, "serve", str(deployment), "--port", "0", *arguments],
                stderr=stream,
                stdout=stream,
                env={**os.environ, **(environment or {})},
            )
        self.url: str = self._wait_until_serving()["url"]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.url.rsplit("/", 1)[1]

    @property
    def address(self) -> str:
        """Host and port of the server."""
        return urlsplit(self.url).netloc

    def events(self) -> list[dict[str, Any]]:
        """The log events written so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def log(self) -> str:
        """The text written so far."""
        return self._log.read_text()

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> "Reply":
        """Send a request; a body that is not bytes is sent as JSON."""
        return request(self.address, method, path, body, headers)

    def infer(self, *inputs: dict[str, Any], **content: Any) -> "Reply":
        """Send an infer request with these inputs."""
        return self.request("POST", f"/v2/models/{self.name}/infer", {"inputs": list(inputs), **content})

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """Send a signal and wait; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def _wait_until_serving(self) -> dict[str, Any]:
        limit = time.monotonic() + 300
        while time.monotonic() < limit:
            for event in self.events():
                if event.get("event") == "serving":
                    return event
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"the server did not start: {self._log.read_text()[-2000:]}")


class Reply:
    """Status, headers and body of an answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def outputs(self) -> dict[str, list[Any]]:
        """Data of the output tensors by name; the status must be 200."""
        assert self.status == 200, self.body
        return {tensor["name"]: tensor["data"] for tensor in self.json["outputs"]}


def request(address: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
    """Send one request over a new connection."""
    connection = http.client.HTTPConnection(address, timeout=120)
    with contextlib.closing(connection):
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, headers or {})
        return Reply(connection.getresponse())


@contextlib.contextmanager
def serving(deployment: Path, log: Path, *arguments: str, **options: Any) -> Iterator[ServerProcess]:
    """A server that is stopped at the end of the block."""
    server = ServerProcess(deployment, log, *arguments, **options)
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def texts(name: str, *values: str) -> dict[str, Any]:
    """A BYTES tensor."""
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": list(values)}


def integers(name: str, *rows: list[int]) -> dict[str, Any]:
    """An INT64 tensor."""
    return {
        "name": name,
        "datatype": "INT64",
        "shape": [len(rows), len(rows[0])],
        "data": [v for row in rows for v in row],
    }
