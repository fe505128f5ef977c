# SPDX-License-Identifier: Apache-2.0
"""The checks of check_reliability.py: each takes the setting and returns figures and a verdict."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.console import show_progress
from harness.served import minilm_deployment

from reliability.equal_answers import Comparison, compare
from reliability.largest_requests import LARGEST
from reliability.load import Clients, Load
from reliability.server_faults import drip, leave, malformed
from reliability.server_process import ServerProcess, serving, texts
from reliability.server_watch import MemoryWatch, ProbeWatch, memory_mb
from reliability.serving_overhead import measure_latency, measure_throughput
from sparse_deploy.runtimes import get_runtime

ROOT = Path(__file__).resolve().parents[2]
CONCURRENCY = 32
# The runtimes whose answers must not depend on the batch (tests/contract/test_batch_invariance.py).
_INVARIANT = (
    ("sparse", "int8"), ("openvino-sparse", "int8"), ("openvino", "int8"), ("onnxruntime", "int8"),
    ("openvino", "fp32"), ("onnxruntime", "fp32"),
)  # fmt: skip
_TOLERANCE = 1e-5  # allows float sums in another order, but no different INT8 rounding


@dataclass(frozen=True)
class Setting:
    """Settings that the checks share.

    Attributes:
        deployment: the served deployment.
        bodies: file with one request per line.
        sentences: the texts of the requests.
        scratch: folder for logs.
        seconds: duration of the sustained load; other checks use a fraction of it.
        cache: folder of built models.
    """

    deployment: Path
    bodies: Path
    sentences: tuple[str, ...]
    scratch: Path
    seconds: float
    cache: Path

    def serve(self, *arguments: str) -> AbstractContextManager[ServerProcess]:
        """A context manager with a server of the deployment."""
        return serving(self.deployment, self.scratch / "log", *arguments)

    def load(self, server: ServerProcess, seconds: float, **clients: Any) -> Clients:
        """Start clients of a server."""
        return Clients(server.address, f"/v2/models/{server.name}/infer", self.bodies, seconds, **clients)


@dataclass(frozen=True)
class Outcome:
    """Result of a check.

    Attributes:
        passed: whether the requirement is met; None without a requirement.
        required: the requirement, in words.
        seen: the figures, in words.
        figures: the figures as JSON.
    """

    passed: bool | None
    required: str
    seen: str
    figures: dict[str, object]


def throughput(setting: Setting) -> Outcome:
    """Server at concurrency 32 against the runtime alone, on the same texts, in interleaved blocks."""
    return _throughput(setting, apart=False)


def throughput_apart(setting: Setting) -> Outcome:
    """As `throughput`, but the clients use the last core only, and server and runtime use the other cores."""
    return _throughput(setting, apart=True)


def _throughput(setting: Setting, *, apart: bool) -> Outcome:
    found = measure_throughput(
        setting.deployment, setting.sentences, setting.bodies, CONCURRENCY, setting.scratch, apart=apart
    )
    return Outcome(
        found.ratio >= 0.85,
        "at least 85 % of the runtime alone (medians of interleaved blocks)",
        f"{found.served:.0f}/s of {found.bare:.0f}/s: {found.ratio:.0%} ({found.low:.0%} to {found.high:.0%})",
        asdict(found),
    )


def latency(setting: Setting) -> Outcome:
    """One client against the runtime alone, in interleaved blocks."""
    found = measure_latency(setting.deployment, setting.sentences, setting.bodies, setting.scratch)
    added = found.served - found.bare
    return Outcome(
        added <= 1.5,
        "at most 1.5 ms more than the runtime alone (p50)",
        f"{found.served:.2f} ms against {found.bare:.2f} ms: {added:.2f} ms more",
        asdict(found),
    )


def sustained(setting: Setting) -> Outcome:
    """Load near capacity for minutes."""
    with setting.serve() as server:
        setting.load(server, 5, connections=CONCURRENCY).wait()
        with MemoryWatch(server) as memory:
            load = setting.load(server, setting.seconds, connections=CONCURRENCY).wait()
        growth = memory.growth()
    good = load.answered and set(load.statuses) == {"200"} and not load.lost and growth < 20
    return Outcome(
        bool(good),
        "no error, no lost request, memory grows by less than 20 MB",
        f"{load.answered} answers in {load.seconds:.0f} s, {load.per_second:.0f}/s; {_latencies(load)}; "
        f"{_errors(load)}; memory {memory.peak:.0f} MB at most, {growth:+.1f} MB from begin to end",
        _figures(load, memory_peak_mb=memory.peak, memory_growth_mb=growth),
    )


def overload(setting: Setting) -> Outcome:
    """Arrivals at three times the capacity, independent of answers; afterwards, the speed at normal load."""
    with setting.serve("--queue", "64") as server:
        before = setting.load(server, 10, connections=CONCURRENCY).wait()
        with MemoryWatch(server) as memory:
            load = setting.load(server, setting.seconds / 3, rate=3 * before.per_second).wait()
        time.sleep(1)
        after = setting.load(server, 10, connections=CONCURRENCY).wait()
    refused = load.statuses.get("503", 0)
    honest = load.retry_after == refused and set(load.statuses) <= {"200", "503"} and not load.lost
    recovered = after.per_second / before.per_second
    grown = memory.peak - memory.samples[0][1]
    return Outcome(
        bool(honest and recovered > 0.9 and grown < 200),
        "only 200 and 503 with Retry-After, nothing lost, memory bounded, full speed afterwards",
        f"{3 * before.per_second:.0f}/s sent at a capacity of {before.per_second:.0f}/s: {load.per_second:.0f}/s "
        f"answered ({_latencies(load)}), {refused} of {sum(load.statuses.values())} refused with Retry-After, "
        f"{load.lost} lost; memory {grown:+.0f} MB; afterwards {recovered:.0%} of the speed before",
        _figures(load, capacity=before.per_second, recovered=recovered, memory_grown_mb=grown),
    )


def slow_clients(setting: Setting) -> Outcome:
    """400 connections send one byte every half second (half headers, half bodies), with normal clients in parallel."""
    with setting.serve("--header-timeout-ms", "5000", "--body-timeout-ms", "5000") as server:
        before = setting.load(server, 15, connections=CONCURRENCY).wait()
        clients = setting.load(server, 15, connections=CONCURRENCY)
        ended = asyncio.run(drip(server, 400, 20))
        load = clients.wait()
    ratio = load.per_second / before.per_second
    return Outcome(
        ratio > 0.85 and not ended.get("still open") and not load.lost,
        "all cut or answered 408 within 5 s; the normal clients keep 85 % of their speed",
        f"{_counts(ended)}; normal clients at {ratio:.0%}, {_errors(load)}",
        {"ended": ended, "ratio": ratio},
    )


def equal_answers(setting: Setting) -> Outcome:
    """10,000 answers per runtime to 32 concurrent clients, mixed text lengths, one of 20 requests abandoned; MiniLM."""
    deployment = minilm_deployment(setting.cache, show_progress)
    lengths = sorted(set(setting.sentences), key=len)
    sentences = [*lengths[:: max(1, len(lengths) // 190)], *(" ".join(lengths[n : n + 5]) for n in range(0, 50, 5))]
    found: dict[str, Comparison] = {}
    for runtime, precision in [cell for cell in _INVARIANT if get_runtime(cell[0]).available()]:
        arguments = ("--runtime", runtime, "--precision", precision, "--timeout-ms", "60000")
        with serving(deployment, setting.scratch / "log", *arguments) as server:
            show_progress(f"equal answers: {runtime} {precision}")
            found[f"{runtime}-{precision}"] = compare(server, sentences, 10_000, CONCURRENCY)
    bad = [name for name, one in found.items() if one.largest > _TOLERANCE or one.other or one.answers < 9_000]
    seen = "; ".join(f"{name} {one.largest:.1g} in {one.answers}" for name, one in found.items())
    flipped = sum(one.flipped for one in found.values())
    return Outcome(
        not bad,
        f"no logit differs by more than {_TOLERANCE:g} from the single request's, every answer is 200",
        f"largest difference: {seen}; {flipped} labels flipped, {sum(one.left for one in found.values())} abandoned",
        {name: asdict(one) for name, one in found.items()},
    )


def largest_requests(setting: Setting) -> Outcome:
    """The largest requests within the limits, and some beyond them, by kind; bert-base."""
    with setting.serve("--timeout-ms", "120000") as server:
        server.infer(texts("text", "warm"))
        begin = memory_mb(server)
        found: dict[str, dict[str, Any]] = {}
        for name, ask in LARGEST.items():
            show_progress(f"largest requests: {name}")
            with MemoryWatch(server) as memory, ProbeWatch(server) as probes:
                statuses = ask(server)
            found[name] = {
                "statuses": statuses, "memory_mb": memory.peak - begin, "silence_ms": 1000 * probes.longest,
                "unanswered_probes": probes.failed,
            }  # fmt: skip
        kept = memory_mb(server) - begin
    peak = max(one["memory_mb"] for one in found.values())
    silence = max(one["silence_ms"] for one in found.values())
    seen = "; ".join(f"{name} {one['memory_mb']:+.0f} MB, {one['silence_ms']:.0f} ms" for name, one in found.items())
    return Outcome(
        peak < 700 and silence < 2000 and not any(one["unanswered_probes"] for one in found.values()),
        "less than 700 MB more than the idle server, each probe answered within 2 s",
        f"{seen}; {kept:+.0f} MB afterwards; idle {begin:.0f} MB",
        {**found, "idle_mb": begin, "kept_mb": kept},
    )


def malformed_requests(setting: Setting) -> Outcome:
    """10,000 malformed and correct requests in random order."""
    with setting.serve() as server:
        malformed(server, 500, seed=1)
        with MemoryWatch(server) as memory:
            seen = malformed(server, 10_000)
        healthy = server.infer(texts("text", "still there")).status == 200
    wrong = {name: count for name, count in seen.items() if not _expected(name)}
    growth, kinds = memory.growth(), {name.rsplit(" ", 1)[0] for name in seen}
    return Outcome(
        healthy and not wrong and growth < 30,
        "malformed requests get the right 4xx, correct ones 200, no 5xx; memory grows by less than 30 MB",
        f"{sum(seen.values())} requests of {len(kinds)} kinds: {_counts(_by_status(seen))}; memory {growth:+.1f} MB"
        f"{f'; unexpected: {_counts(wrong)}' if wrong else ''}",
        {"seen": dict(seen), "memory_growth_mb": growth},
    )


def disconnects(setting: Setting) -> Outcome:
    """1,000 clients send a request and disconnect, half of them with a reset."""
    with setting.serve() as server:
        leave(server, 1000)
        metrics = _when_idle(server)
        begin = memory_mb(server)
        leave(server, 1000)
        _when_idle(server)
        growth = memory_mb(server) - begin
        healthy = server.infer(texts("text", "still there")).status == 200
    names = ("requests_open", "queue_rows", "requests_abandoned_total")
    open_now, waiting, left = (_metric(metrics, name) for name in names)
    return Outcome(
        healthy and open_now == waiting == 0 and growth < 30,
        "no connection stays open, no request queued, the server answers, memory grows by less than 30 MB",
        f"{left:.0f} of 1000 disconnects detected before the answer, {open_now:.0f} open and {waiting:.0f} queued "
        f"afterwards, memory {growth:+.1f} MB with 1000 more",
        {"abandoned": left, "open": open_now, "queued": waiting, "memory_growth_mb": growth},
    )


def sigterm(setting: Setting) -> Outcome:
    """SIGTERM under load, ten times."""
    lost, answered, codes, seconds = 0, 0, set(), []
    for round_number in range(10):
        show_progress(f"sigterm {round_number + 1} of 10")
        with setting.serve("--drain-seconds", "1") as server:
            clients = setting.load(server, 4, connections=CONCURRENCY)
            time.sleep(1.5)
            begin = time.monotonic()
            codes.add(server.stop(signal.SIGTERM))
            seconds.append(time.monotonic() - begin)
            load = clients.wait()
        lost, answered = lost + load.lost, answered + load.answered
    return Outcome(
        not lost and codes == {0},
        "0 accepted requests lost, exit code 0",
        f"{answered} answered, {lost} lost; ended in {median(seconds):.1f} s (drain 1 s), exit codes {sorted(codes)}",
        {"answered": answered, "lost": lost, "seconds": seconds},
    )


def sigkill(setting: Setting) -> Outcome:
    """SIGKILL under load, then a restart on the same port."""
    with setting.serve() as server:
        clients = setting.load(server, 3, connections=CONCURRENCY)
        time.sleep(1.5)
        port = server.address.rsplit(":", 1)[1]
        server.stop(signal.SIGKILL)
        clients.wait()
    begin = time.monotonic()
    with setting.serve("--port", port) as server:
        ready = server.request("GET", "/v2/health/ready").status == 200
        seconds = time.monotonic() - begin
    return Outcome(
        ready, "ready again on the same port", f"ready {seconds:.1f} s after the start", {"seconds_to_ready": seconds}
    )


def client_library(setting: Setting) -> Outcome:
    """tritonclient: health, metadata, infer with binary tensors and with JSON."""
    return _tests("tests/integration/test_serving.py", "-k", "triton")


def conformance(setting: Setting) -> Outcome:
    """The protocol's routes, inputs, outputs and errors over real HTTP; faulty clients and deployments."""
    return _tests("tests/integration/test_serving.py")


def openapi(setting: Setting) -> Outcome:
    """Valid and invalid requests, generated by Schemathesis from the server's OpenAPI document."""
    with setting.serve() as server:
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"http://{server.address}/openapi.json",
            "--max-examples", "300", "--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color",
            "--exclude-checks", "positive_data_acceptance,unsupported_method,missing_required_header",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=setting.scratch, check=False)
    generated = re.search(r"(\d+) generated, (.*)", done.stdout)
    seen = f"{generated[1]} requests, {generated[2]}" if generated else done.stdout[-200:]
    return Outcome(done.returncode == 0, "each answer is documented", seen, {"code": done.returncode})


def broken_writes(setting: Setting) -> Outcome:
    """SIGKILL at every step of publishing an artifact, a full disk, concurrent writers of one target."""
    return _tests("tests/unit/test_publishing.py", "tests/unit/test_artifacts.py")


def hostile_files(setting: Setting) -> Outcome:
    """10^5 mutated ONNX, IR, safetensors and manifest files; accepted files are opened by the native parsers."""
    command = [sys.executable, str(ROOT / "tests" / "fuzz_artifacts.py"), "--cases", "100000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = lines[-1] if lines else {}
    seen = _fuzzed(found) if found else done.stderr[-200:]
    return Outcome(done.returncode == 0, "no crash, no hang, no false accept", seen, found)


def _tests(*arguments: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    return Outcome(
        done.returncode == 0, "all tests pass", f"`pytest {' '.join(arguments)}`: {last}", {"code": done.returncode}
    )


def _expected(name: str) -> bool:
    kind, status = name.rsplit(" ", 1)
    if kind.startswith("good"):
        return status == "200"
    if kind in ("oversized", "many rows"):
        return status == "413"
    # A request with a flipped bit may still be correct; a truncated one never is.
    return status in {"200", "400"} if kind == "flipped byte" else status in {"400", "413", "415"}


def _fuzzed(found: dict[str, Any]) -> str:
    """The fuzzer's counts, summed over kinds of files."""
    parts = []
    for place, name in (("checked", "cases"), ("native", "opened by native parsers")):
        totals: Counter[str] = Counter()
        for counts in found[place].values():
            totals.update(counts)
        parts.append(f"{sum(totals.values())} {name} ({_counts(totals)})")
    return "; ".join(parts)


def _by_status(seen: dict[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in seen.items():
        status = name.rsplit(" ", 1)[1]
        found[status] = found.get(status, 0) + count
    return dict(sorted(found.items()))


def _when_idle(server: ServerProcess, seconds: float = 30) -> str:
    """The metrics page once no request is open, or at the end of the time limit."""
    limit = time.monotonic() + seconds
    while True:
        page = server.request("GET", "/metrics").body.decode()
        if not _metric(page, "requests_open") or time.monotonic() > limit:
            return page
        time.sleep(0.2)


def _metric(page: str, name: str) -> float:
    found = re.search(rf"^sparse_deploy_{name}\{{.*\}} (\S+)$", page, re.MULTILINE)
    if found is None:
        raise ValueError(f"expected the metric sparse_deploy_{name}, found none")
    return float(found[1])


def _latencies(load: Load) -> str:
    return " / ".join(f"{load.percentile(share):.0f}" for share in (0.5, 0.95, 0.99)) + " ms p50 / p95 / p99"


def _errors(load: Load) -> str:
    return f"{sum(load.statuses.values()) - load.answered} errors, {load.lost} lost"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _figures(load: Load, **more: float) -> dict[str, object]:
    shares = {f"p{round(100 * share)}_ms": load.percentile(share) for share in (0.5, 0.95, 0.99)}
    return {"statuses": load.statuses, "lost": load.lost, "per_second": load.per_second, **shares, **more}


CHECKS: dict[str, Callable[[Setting], Outcome]] = {
    "throughput": throughput,
    "throughput-apart": throughput_apart,
    "latency": latency,
    "sustained": sustained,
    "overload": overload,
    "slow-clients": slow_clients,
    "equal-answers": equal_answers,
    "largest-requests": largest_requests,
    "malformed": malformed_requests,
    "disconnects": disconnects,
    "sigterm": sigterm,
    "sigkill": sigkill,
    "client-library": client_library,
    "conformance": conformance,
    "openapi": openapi,
    "broken-writes": broken_writes,
    "hostile-files": hostile_files,
}
