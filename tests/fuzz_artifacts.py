# SPDX-License-Identifier: Apache-2.0
"""Mutated ONNX, IR, safetensors and manifest files against the checks that run before every native parser.

python tests/fuzz_artifacts.py                      # 100,000 cases, a table
python tests/fuzz_artifacts.py --cases 5000 --json  # one object

Each case is written to a file in memory and checked in this process. An independent parser (protobuf, ElementTree,
safetensors) reads the accepted files and looks for forbidden content; the native runtime opens a sample of them in a
child process.

refused         a typed error
unchanged       accepted; the independent parser reads the same content as before
other content   accepted and well-formed, but other numbers or names: only a manifest's hashes can detect this
false accept    a sealed deployment whose files differ, external data, a foreign operator, a constant outside its file
error, hang     an exception of another type; more than --seconds
"""

import argparse
import functools
import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import onnx
import reliability  # noqa: F401 - adds the benchmarks to the import path
import safetensors
from google.protobuf.message import DecodeError
from harness.console import show_progress
from reliability.mutations import Original, mutate, structure_of_onnx
from reliability.native_loads import Child, summary

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.errors import SparseDeployError
from sparse_deploy.untrusted.model_file import check_model_file
from sparse_deploy.untrusted.onnx_file import DOMAINS
from sparse_deploy.untrusted.openvino_ir import ELEMENT_BITS, OPERATOR_SETS

KINDS = {
    "ONNX": ("model.onnx", "model_int8.onnx", "model_sparse.onnx"),
    "IR": ("openvino_model.xml", "openvino_model_int8.xml"),
    "safetensors": ("model.safetensors",),
    "manifest": ("manifest.json",),
    "sealed file": (
        "model.onnx", "model_sparse.onnx", "openvino_model.bin", "openvino_model_int8.xml", "config.json",
        "tokenizer.json", "model.safetensors",
    ),
}  # fmt: skip
RUNTIMES = {"model_sparse.onnx": "sparse", ".onnx": "onnxruntime", ".xml": "openvino", ".safetensors": "safetensors"}
OUTCOMES = ("refused", "unchanged", "other content", "false accept", "error", "hang")


class HangError(Exception):
    """The time limit of a case is exceeded."""


def make_deployment(folder: Path) -> None:
    """Make a sealed deployment of a BERT with 2 layers of width 16."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torch
    from tiny_deployment import BENCH_RECIPE, seal_deployment, write_models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    encoder = folder.with_name("encoder")
    encoder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
    (encoder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(encoder / "vocab.txt")).save_pretrained(encoder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(encoder)
    folder.mkdir()
    write_models(folder, encoder)
    seal_deployment(folder, BENCH_RECIPE)


class Fuzzer:
    """The cases of one run.

    Args:
        folder: a deployment; files in it are damaged and restored.
        seed: seed of the run.
        seconds: time limit of one case.
        native: files per kind to keep for the native runtimes.
    """

    def __init__(self, folder: Path, seed: int, seconds: float, native: int) -> None:
        self.folder = folder
        self.seed = seed
        self.counts = {kind: Counter[str]() for kind in KINDS}
        self.kept: dict[str, list[tuple[str, bytes]]] = {kind: [] for kind in KINDS}
        self.notes: list[str] = []
        self._seconds = seconds
        self._native = native
        self._files = load_manifest(folder).files
        self._originals = {
            name: Original(name, data, structure_of_onnx(data) if name.endswith(".onnx") else ())
            for name in {name for names in KINDS.values() for name in names}
            for data in [(folder / name).read_bytes()]
        }

    def run(self, number: int) -> None:
        """Run one case."""
        chance = random.Random(f"{self.seed} {number}")
        kind = list(KINDS)[number % len(KINDS)]
        name = chance.choice(KINDS[kind])
        original = self._originals[name]
        data = mutate(original, chance)
        path = self.folder / name
        path.write_bytes(data)
        try:
            outcome = self._outcome(kind, path, original.data, data)
        finally:
            path.write_bytes(original.data)
        self.counts[kind][outcome] += 1
        if outcome in ("false accept", "error", "hang"):
            self.notes.append(f"case {number} ({kind}, {name}): {outcome}")
        if outcome in ("unchanged", "other content") and data != original.data:
            self._keep(kind, name, data, chance)

    def _outcome(self, kind: str, path: Path, before: bytes, after: bytes) -> str:
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
        try:
            if kind in ("manifest", "sealed file"):
                listed = load_manifest(self.folder).files
            else:
                check_model_file(path)
        except SparseDeployError:
            return "refused"
        except HangError:
            return "hang"
        except Exception as error:
            self.notes.append(repr(error)[:200])
            return "error"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if before == after:
            return "unchanged"
        if kind == "sealed file":
            return "false accept"
        if kind == "manifest":
            return "other content" if listed == self._files else "false accept"
        return LOOK[path.suffix](path, before, after)

    def _keep(self, kind: str, name: str, data: bytes, chance: random.Random) -> None:
        """Keep a uniform sample of all accepted files."""
        if kind not in ("ONNX", "IR", "safetensors"):
            return
        kept, passed = self.kept[kind], self.counts[kind]["unchanged"] + self.counts[kind]["other content"]
        if len(kept) < self._native:
            kept.append((name, data))
        elif (place := chance.randrange(passed)) < self._native:
            kept[place] = (name, data)


def look_at_onnx(path: Path, before: bytes, after: bytes) -> str:
    """Outcome according to protobuf's parser."""
    del path
    try:
        model = onnx.ModelProto.FromString(after)
    except DecodeError:  # for example text that is not UTF-8; native parsers refuse it as well
        return "other content"
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    tensors = [*model.graph.initializer, *(attribute.t for attribute in attributes)]
    if (
        model.functions
        or model.training_info
        or model.graph.sparse_initializer
        or {one.domain for one in [*model.graph.node, *model.opset_import]} - DOMAINS.keys()
        or any(tensor.data_location or tensor.external_data for tensor in tensors)
        or any(a.HasField("g") or a.graphs or a.HasField("sparse_tensor") for a in attributes)
    ):
        return "false accept"
    for tensor in model.graph.initializer:
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError):
            return "false accept"
    return "unchanged" if model == parsed_original(before) else "other content"


def look_at_ir(path: Path, before: bytes, after: bytes) -> str:
    """Outcome according to a parser that builds a tree."""
    try:
        root = ElementTree.fromstring(after)
    except ElementTree.ParseError:  # it resolves XML namespaces, which an IR does not use
        return "other content"
    size = path.with_suffix(".bin").stat().st_size
    for layer in root.iter("layer"):
        data = layer.find("data")
        if layer.get("version") not in OPERATOR_SETS:
            return "false accept"
        if layer.get("type") in ("Const", "Constant") and data is not None:
            elements = 1
            for part in filter(None, data.get("shape", "").split(",")):
                elements *= int(part)
            length = int(data.get("size", "-1"))
            if length * 8 != elements * ELEMENT_BITS[data.get("element_type", "")]:
                return "false accept"
            if not 0 <= int(data.get("offset", "-1")) <= size - length:
                return "false accept"
    return "unchanged" if content_of(root) == content_of_original(before) else "other content"


def content_of(root: ElementTree.Element) -> list[tuple[Any, ...]]:
    """The content of an XML file, without its layout."""
    return [(one.tag, one.attrib, (one.text or "").strip(), len(one)) for one in root.iter()]


@functools.cache
def content_of_original(data: bytes) -> list[tuple[Any, ...]]:
    """:func:`content_of` of an undamaged file, cached."""
    return content_of(ElementTree.fromstring(data))


@functools.cache
def parsed_original(data: bytes) -> onnx.ModelProto:
    """An undamaged model, cached."""
    model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    return model


def look_at_safetensors(path: Path, before: bytes, after: bytes) -> str:
    """Outcome according to the safetensors library, which may be stricter but never more permissive."""
    del path
    try:
        found = safetensors.deserialize(after)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return "other content"
    original = safetensors.deserialize(before)  # type: ignore[no-untyped-call]
    return "unchanged" if found == original else "other content"


LOOK: dict[str, Callable[[Path, bytes, bytes], str]] = {
    ".onnx": look_at_onnx,
    ".xml": look_at_ir,
    ".safetensors": look_at_safetensors,
}


def open_natively(fuzzer: Fuzzer, seconds: float) -> dict[str, dict[str, int]]:
    """Open the kept files in the runtimes; return counts per kind."""
    found: dict[str, dict[str, int]] = {}
    child = Child(seconds)
    try:
        for kind, files in fuzzer.kept.items():
            outcomes = Counter[str]()
            for index, (name, data) in enumerate(files):
                show_progress(f"{kind}: {index} of {len(files)} opened natively")
                path = fuzzer.folder / name
                original = path.read_bytes()
                path.write_bytes(data)
                runtime = RUNTIMES.get(name) or RUNTIMES[path.suffix]
                outcome = child.open(runtime, path)
                outcomes[outcome] += 1
                if outcome.startswith(("crash", "hang")):
                    digest = hashlib.sha256(data).hexdigest()[:12]
                    fuzzer.notes.append(f"{kind}, {name} ({digest}): {runtime} {outcome}, in its child")
                path.write_bytes(original)
            if files:
                found[kind] = summary(outcomes)
    finally:
        child.close()
    return found


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler for the time limit of a case."""
    raise HangError


def print_table(result: dict[str, Any]) -> None:
    """Print the result as Markdown."""
    times = f"{result['seconds']:.0f} s ({result['cpu_seconds']:.0f} s of CPU time for the checks)"
    print(f"{result['cases']} cases, seed {result['seed']}, {times}\n")
    print(f"| kind | {' | '.join(OUTCOMES)} |\n|---|{'---:|' * len(OUTCOMES)}")
    for kind, counts in result["checked"].items():
        print(f"| {kind} | {' | '.join(str(counts[outcome]) for outcome in OUTCOMES)} |")
    print("\naccepted files, opened by the native runtime in a child process:\n")
    for kind, counts in result["native"].items():
        print(f"* {kind}: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    for note in result["notes"]:
        print(f"  {note}")


def main() -> int:
    """Run all cases; return 1 after a false accept, an error or a hang in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--native", type=int, default=500, help="files per kind to open in the runtimes")
    parser.add_argument("--seconds", type=float, default=2.0, help="time limit of a case")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no new case is started")
    parser.add_argument("--native-seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, stop)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    scratch = Path(tempfile.mkdtemp(prefix="artifact-fuzz-", dir=memory))
    try:
        make_deployment(scratch / "deployment")
        start, cpu_seconds = time.monotonic(), -time.process_time()
        fuzzer = Fuzzer(scratch / "deployment", options.seed, options.seconds, options.native)
        cases = 0
        for number in range(options.cases):
            if time.monotonic() - start > options.budget:
                break
            fuzzer.run(number)
            cases += 1
            if number % 500 == 0:
                show_progress(f"{number} of {options.cases}")
        cpu_seconds += time.process_time()
        native = open_natively(fuzzer, options.native_seconds)
    finally:
        shutil.rmtree(scratch)
    show_progress("")
    result = {
        "cases": cases,
        "seed": options.seed,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "checked": {kind: {name: counts[name] for name in OUTCOMES} for kind, counts in fuzzer.counts.items()},
        "native": native,
        "notes": fuzzer.notes[:50],
    }
    if options.json:
        print(json.dumps(result))
    else:
        print_table(result)
    return int(any(counts[bad] for counts in fuzzer.counts.values() for bad in ("false accept", "error", "hang")))


if __name__ == "__main__":
    sys.exit(main())
