# SPDX-License-Identifier: Apache-2.0
"""Load generators: connections that send again after each answer (closed loop), or random arrivals (open loop).

``python -m reliability.load ADDRESS PATH BODIES SECONDS --connections N | --rate R`` runs in a separate process and
prints its counts as JSON. It takes about 0.1 ms of CPU time per request, which on a machine with two cores is part of
the load.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop
from harness.models import child_environment


@dataclass
class Load:
    """Counts and times of the clients.

    Attributes:
        seconds: duration of the run.
        statuses: answers by HTTP status.
        milliseconds: time from sending to the complete answer, of answers with status 200.
        lost: requests without an answer.
        refused: connections that the server did not accept.
        retry_after: 503 answers with Retry-After.
    """

    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)
    lost: int = 0
    refused: int = 0
    retry_after: int = 0

    @property
    def answered(self) -> int:
        """Number of answers with status 200."""
        return self.statuses.get("200", 0)

    @property
    def per_second(self) -> float:
        """Answers with status 200 per second."""
        return self.answered / self.seconds

    def percentile(self, share: float) -> float:
        """Percentile of the milliseconds of answers with status 200."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Clients:
    """A running process of clients.

    Args:
        address: host and port of the server.
        path: path of the infer route.
        bodies: file with one request per line.
        seconds: duration of the load.
        connections: number of connections that send again after each answer; or
        rate: arrivals per second.
    """

    def __init__(
        self, address: str, path: str, bodies: Path, seconds: float, *, connections: int = 0, rate: float = 0.0
    ) -> None:
        command = [sys.executable, "-m", "reliability.load", address, path, str(bodies), str(seconds)]
        command += ["--connections", str(connections)] if connections else ["--rate", str(rate)]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - wait() closes it
        self._process = subprocess.Popen(command, stdout=self._output, env=child_environment())

    def wait(self) -> Load:
        """Wait for the clients to end; return their counts."""
        if self._process.wait():
            raise SystemExit(f"reliability.load ended with {self._process.returncode}")
        with self._output as output:
            output.seek(0)
            return Load(**json.load(output))


def write_bodies(texts: Sequence[str], path: Path) -> Path:
    """One request per text, one per line."""
    lines = [json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [t]}]}) for t in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class _Client(asyncio.Protocol):
    """One connection; sends a request, reads the answer, reports it to the pool."""

    def __init__(self, pool: "_Pool") -> None:
        self._pool, self._buffer, self._sent = pool, b"", 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's class is not a subclass

    def send(self, request: bytes) -> None:
        assert self.transport is not None
        self._buffer, self._sent = b"", time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or not self._sent:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(body) < length:
            return
        milliseconds, self._sent = (time.perf_counter() - self._sent) * 1000, 0.0
        close = b"connection: close" in lines
        if close and self.transport is not None:
            self.transport.close()
        retry = any(line.startswith(b"retry-after:") for line in lines)
        self._pool.answered(self, lines[0].split()[1].decode(), milliseconds, retry=retry, usable=not close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent:
            self._pool.lost(self)
        else:
            self._pool.closed(self)


class _Pool:
    """The connections of a run and their counts."""

    def __init__(self, address: str, path: str, bodies: Sequence[bytes], seed: int = 0) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        self._requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        random.Random(seed).shuffle(self._requests)
        self._next = 0
        self.load = Load()
        self.idle: deque[_Client] = deque()
        self.open = 0
        self.busy = 0
        self.again = False

    async def connect(self) -> _Client | None:
        try:
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: _Client(self), self._host, self._port
            )
        except OSError:
            self.load.refused += 1
            return None
        self.open += 1
        return client

    def send(self, client: _Client) -> None:
        self.busy += 1
        client.send(self._requests[self._next % len(self._requests)])
        self._next += 1

    def answered(self, client: _Client, status: str, milliseconds: float, *, retry: bool, usable: bool) -> None:
        self.busy -= 1
        self.load.statuses[status] = self.load.statuses.get(status, 0) + 1
        self.load.retry_after += retry
        if status == "200":
            self.load.milliseconds.append(milliseconds)
        if not usable:
            return
        if self.again:
            self.send(client)
        else:
            self.idle.append(client)

    def lost(self, client: _Client) -> None:
        self.busy -= 1
        self.open -= 1
        self.load.lost += 1

    def closed(self, client: _Client) -> None:
        self.open -= 1
        if client in self.idle:
            self.idle.remove(client)


async def _closed_loop(pool: _Pool, seconds: float, connections: int) -> None:
    """Each connection sends its next request after each answer; lost connections are opened again."""
    pool.again = True
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while pool.open < connections:
            client = await pool.connect()
            if client is None:
                break
            pool.send(client)
        await asyncio.sleep(0.05)
    pool.again = False


async def _open_loop(pool: _Pool, seconds: float, rate: float, most: int = 20_000) -> None:
    """Arrivals at random times, independent of earlier answers."""
    chance = random.Random(1)
    connecting = set()
    begin = due = time.monotonic()
    while due < begin + seconds:
        due += chance.expovariate(rate)
        wait = due - time.monotonic()
        if wait > 0.001:
            await asyncio.sleep(wait)
        if pool.idle:
            pool.send(pool.idle.popleft())
        elif pool.open < most:
            task = asyncio.ensure_future(_connect_and_send(pool))
            connecting.add(task)
            task.add_done_callback(connecting.discard)


async def _connect_and_send(pool: _Pool) -> None:
    if client := await pool.connect():
        pool.send(client)


async def _run(options: argparse.Namespace) -> Load:
    bodies = options.bodies.read_bytes().splitlines()
    pool = _Pool(options.address, options.path, bodies)
    begin = time.monotonic()
    if options.connections:
        await _closed_loop(pool, options.seconds, options.connections)
    else:
        await _open_loop(pool, options.seconds, options.rate)
    pool.load.seconds = time.monotonic() - begin
    limit = time.monotonic() + 30
    while pool.busy and time.monotonic() < limit:
        await asyncio.sleep(0.01)
    pool.load.lost += pool.busy
    return pool.load


def main() -> None:
    """Run the clients and print their counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("path")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--connections", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0)
    load = uvloop.run(_run(parser.parse_args()))
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
