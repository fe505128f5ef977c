# SPDX-License-Identifier: Apache-2.0
"""Faulty clients: slow ones, disconnects, malformed requests; and the server's answers to them."""

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from reliability.server_process import ServerProcess, integers, texts


async def drip(server: ServerProcess, connections: int, seconds: float) -> dict[str, int]:
    """Clients that send a request byte by byte, one byte every half second.

    Returns:
        Number of connections that the server closed, that it answered, and that were still open at the end.
    """
    host, port = server.address.split(":")
    path = f"/v2/models/{server.name}/infer"
    parts = [
        b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"y" * 500,
        b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n" + b" " * 500,
    ]
    head = [0, parts[1].index(b"\r\n\r\n") + 4]  # the second kind sends complete headers first
    ended: Counter[str] = Counter()

    async def one(kind: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(parts[kind][: head[kind]])
            end = time.monotonic() + seconds
            for at in range(head[kind], len(parts[kind])):
                writer.write(parts[kind][at : at + 1])
                with contextlib.suppress(TimeoutError):
                    answer = await asyncio.wait_for(reader.read(200), 0.5)
                    ended["answered 408" if b" 408 " in answer else "cut"] += 1
                    return
                if time.monotonic() > end:
                    break
            ended["still open"] += 1
        except OSError:
            ended["cut"] += 1
        finally:
            writer.close()

    await asyncio.gather(*(one(number % 2) for number in range(connections)))
    return dict(ended)


def leave(server: ServerProcess, count: int) -> None:
    """Clients that send a long request and close the connection at once."""
    body = json.dumps({"inputs": [texts("text", *["word " * 100] * 4)]}).encode()
    head = f"POST /v2/models/{server.name}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    host, port = server.address.split(":")

    def one(number: int) -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=10) as client:
            if number % 2:  # half of the clients shut down, half reset the connection
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(head + body)
            time.sleep(0.1 * (number % 3))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(count)))


def malformed(server: ServerProcess, count: int, seed: int = 0) -> Counter[str]:
    """Malformed requests of many kinds, and some correct ones.

    Returns:
        Answers by kind and status, such as ``deep JSON 400``; a request without an answer is ``KIND lost``.
    """
    path = f"/v2/models/{server.name}/infer"

    def one(case: tuple[str, bytes, dict[str, str]]) -> str:
        kind, body, headers = case
        try:
            return f"{kind} {server.request('POST', path, body, headers).status}"
        except (OSError, HTTPException):
            return f"{kind} lost"

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(one, _cases(count, seed)))


def _cases(count: int, seed: int) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    chance = random.Random(seed)
    good = {"inputs": [texts("text", "a gripping, funny and humane film")]}
    ids = {"inputs": [integers("input_ids", [101, 2023, 102])]}

    def changed(**fields: Any) -> bytes:
        return json.dumps({"inputs": [{**ids["inputs"][0], **fields}]}).encode()

    makers: dict[str, Callable[[], tuple[bytes, dict[str, str]]]] = {
        "good text": lambda: (json.dumps(good).encode(), {}),
        "good tensors": lambda: (json.dumps(ids).encode(), {}),
        "random bytes": lambda: (chance.randbytes(chance.randint(0, 2000)), {}),
        "flipped byte": lambda: (_flip(json.dumps(good).encode(), chance), {}),
        "cut JSON": lambda: (json.dumps(good).encode()[: chance.randint(0, 60)], {}),
        "deep JSON": lambda: (b'{"inputs":' + b"[" * chance.randint(2000, 100_000), {}),
        "oversized": lambda: (b" " * (5 * 2**20), {}),
        "wrong dtype": lambda: (changed(datatype=chance.choice(["FP32", "BOOL", "BYTES", "", 7])), {}),
        "wrong shape": lambda: (changed(shape=chance.choice([[], [0], [-1, 3], [2**40], [1, 4], [1, 1, 3], "x"])), {}),
        "NaN": lambda: (changed().replace(b"2023", chance.choice([b"NaN", b"Infinity", b"1e400", b"2023.5"])), {}),
        "huge sequence": lambda: (changed(shape=[1, 100_000], data=[5] * 100_000), {}),
        "out of range": lambda: (changed(data=[101, chance.choice([-1, 2**62, 10**6]), 102]), {}),
        "many rows": lambda: (json.dumps({"inputs": [texts("text", *["x"] * 5000)]}).encode(), {}),
        "wrong binary length": lambda: (json.dumps(good).encode(), {"Inference-Header-Content-Length": "5"}),
        "compressed": lambda: (json.dumps(good).encode(), {"Content-Encoding": "gzip"}),
    }
    for _ in range(count):
        kind = chance.choice(list(makers))
        body, headers = makers[kind]()
        yield kind, body, headers


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
