# SPDX-License-Identifier: Apache-2.0
"""The largest requests that a server accepts or must refuse, by kind."""

import contextlib
import json
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from reliability.server_process import ServerProcess, texts

_BODY_BYTES = 4 * 2**20
_CHARACTERS = 500_000
_ROWS = 256


def _infer(*values: str, clients: int = 1) -> Callable[[ServerProcess], dict[int, int]]:
    def ask(server: ServerProcess) -> dict[int, int]:
        with ThreadPoolExecutor(clients) as pool:
            return dict(Counter(pool.map(lambda _: server.infer(texts("text", *values)).status, range(clients))))

    return ask


def _post(body: bytes, **headers: str) -> Callable[[ServerProcess], dict[int, int]]:
    def ask(server: ServerProcess) -> dict[int, int]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return {server.request("POST", f"/v2/models/{server.name}/infer", body, names).status: 1}

    return ask


def _empty_texts() -> Callable[[ServerProcess], dict[int, int]]:
    count = 1_000_000
    tensor = {"name": "text", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": 4 * count}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return _post(head + bytes(4 * count), Inference_Header_Content_Length=str(len(head)))


def _flood(request: bytes, connections: int) -> Callable[[ServerProcess], dict[int, int]]:
    """Clients that send for seconds and never read a response."""

    def one(server: ServerProcess) -> None:
        host, port = server.address.split(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=3) as client:
            for _ in range(300):
                client.sendall(request)

    def ask(server: ServerProcess) -> dict[int, int]:
        with ThreadPoolExecutor(connections) as pool:
            list(pool.map(lambda _: one(server), range(connections)))
        return {}

    return ask


_GET = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
# Kinds of requests by name; each function sends one.
LARGEST: dict[str, Callable[[ServerProcess], dict[int, int]]] = {
    "500,000 full stops": _infer("." * _CHARACTERS),
    "the same from 8 clients": _infer("." * _CHARACTERS, clients=8),
    "256 texts of 1,950 characters": _infer(*["word " * 390] * _ROWS),
    "two of those (a full queue)": _infer(*["word " * 390] * _ROWS, clients=2),
    "4 MiB of empty lists": _post(b'{"inputs":[' + b"[]," * (_BODY_BYTES // 3 - 10) + b"[]]}"),
    "4 MiB of texts": _infer("." * (_BODY_BYTES - 200)),
    "a million empty texts": _empty_texts(),
    "pipelined requests of 20 clients that never read": _flood(_GET * 1000, 20),
    "headers without end of 20 clients": _flood(b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000, 20),
}
