# SPDX-License-Identifier: Apache-2.0
"""Overhead of the server over the runtime that it calls: both on the same texts and cores, in interleaved blocks.

``python -m reliability.serving_overhead DEPLOYMENT TEXTS THREADS`` runs the runtime alone: a process that reads lines
(``batch N SECONDS``) and writes the texts per second and the median milliseconds of one request.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.console import show_progress
from harness.models import child_environment

from reliability.load import Clients
from reliability.server_process import serving

ROUNDS, BLOCK_SECONDS = 8, 8.0
BARE_BATCH = 32


@dataclass(frozen=True)
class Overhead:
    """Medians over interleaved blocks.

    Attributes:
        bare: median of the runtime alone.
        served: median of the server.
        ratio: median over rounds of served divided by bare.
        low: smallest ratio of a round.
        high: largest ratio of a round.
    """

    bare: float
    served: float
    ratio: float
    low: float
    high: float


def measure_throughput(
    deployment: Path, sentences: Sequence[str], bodies: Path, connections: int, scratch: Path, *, apart: bool = False
) -> Overhead:
    """Texts per second: the runtime alone with batches of 32 sorted by length, against the server with clients.

    With ``apart`` the clients use the last CPU, server and runtime the others; without it all share all CPUs.
    """
    return _in_turns(deployment, sentences, bodies, connections, BARE_BATCH, scratch, apart=apart)


def measure_latency(deployment: Path, sentences: Sequence[str], bodies: Path, scratch: Path) -> Overhead:
    """Median milliseconds: ``session.run`` of one tokenized text, against the server with one client."""
    return _in_turns(deployment, sentences, bodies, 1, 1, scratch)


def _in_turns(
    deployment: Path,
    sentences: Sequence[str],
    bodies: Path,
    connections: int,
    batch: int,
    scratch: Path,
    *,
    apart: bool = False,
) -> Overhead:
    cpus = os.sched_getaffinity(0)
    ours, theirs = (cpus - {max(cpus)}, {max(cpus)}) if apart else (cpus, cpus)
    texts = scratch / "texts.json"
    texts.write_text(json.dumps(list(sentences)), encoding="utf-8")
    pairs = []
    with contextlib.ExitStack() as stack:
        with _on(ours):
            server = stack.enter_context(serving(deployment, scratch / "log"))
        (event,) = [event for event in server.events() if event["event"] == "serving"]
        command = [sys.executable, "-m", "reliability.serving_overhead", str(deployment), str(texts), event["runtime"]]
        command.append(str(event["threads"]))
        with _on(ours):
            runtime = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment()
            )
        assert runtime.stdin is not None
        assert runtime.stdout is not None
        try:
            for round_number in range(-1, ROUNDS):
                show_progress(f"{connections} connections: round {round_number + 1} of {ROUNDS}")
                runtime.stdin.write(f"{batch} {BLOCK_SECONDS}\n")
                runtime.stdin.flush()
                bare = json.loads(runtime.stdout.readline())
                path = f"/v2/models/{server.name}/infer"
                with _on(theirs):
                    clients = Clients(server.address, path, bodies, BLOCK_SECONDS, connections=connections)
                load = clients.wait()
                if batch == 1:
                    pairs.append((bare["milliseconds"], load.percentile(0.5)))
                else:
                    pairs.append((bare["per_second"], load.per_second))
        finally:
            runtime.kill()
            runtime.wait()
    pairs = pairs[1:]  # the first round is a warm-up
    ratios = sorted(served / bare for bare, served in pairs)
    return Overhead(
        median(bare for bare, _ in pairs), median(served for _, served in pairs), median(ratios), ratios[0], ratios[-1]
    )


@contextlib.contextmanager
def _on(cpus: Set[int]) -> Iterator[None]:
    """Processes started in this block run on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    """Run the runtime alone."""
    folder, texts, cell, threads = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    from sparse_deploy.data.batches import pad_batch
    from sparse_deploy.runtimes import get_runtime
    from sparse_deploy.serving.text import TextEncoder

    name, precision = cell.rsplit("-", 1)
    session = get_runtime(name).open(folder, precision, threads)
    features, _ = TextEncoder(folder, 128).encode(json.loads(texts.read_text(encoding="utf-8")))
    for line in sys.stdin:
        size, seconds = int(line.split()[0]), float(line.split()[1])
        order = sorted(range(len(features)), key=lambda index: len(features[index]["input_ids"]))
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        # Even steps over the sorted texts, so that blocks of any length have the same mix of lengths.
        chunks = [chunks[index * 61 % len(chunks)] for index in range(len(chunks))]
        times: list[float] = []
        answered, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            chunk = chunks[len(times) % len(chunks)]
            start = time.perf_counter()
            session.run(pad_batch([features[index] for index in chunk]))
            times.append(time.perf_counter() - start)
            answered += len(chunk)
        elapsed = time.perf_counter() - begin
        print(json.dumps({"per_second": answered / elapsed, "milliseconds": median(times) * 1000}), flush=True)


if __name__ == "__main__":
    main()
