# SPDX-License-Identifier: Apache-2.0
"""Open a deployment, unchanged, with Optimum, and compare its logits with this package's runtimes.

The version pins of optimum-onnx, optimum-intel and this package exclude each other, so each Optimum package has a
separate environment under ~/.cache/sparse-deploy, created on first use. Exit code: 0 all equal, 1 a difference or a
failure, 2 wrong usage.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.config import recipe_from_mapping
from sparse_deploy.data.resolve import task_of
from sparse_deploy.data.tasks import Head, Task, TaskKind
from sparse_deploy.errors import SparseDeployError
from sparse_deploy.runtimes import get_runtime

PROBE = Path(__file__).with_name("optimum_probe.py")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sparse-deploy"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
READY = "ready.txt"
# Same file, same engine, same version: only thread counts may differ.
ATOL = {"fp32": 1e-4, "int8": 1e-3}

SENTENCES = (
    "The film is a quiet, patient portrait of a family that has run out of things to say to each other.",
    "Nobody left the theatre early, which surprised even the director.",
    "It drags.",
    "The battery lasted two days, but the screen scratched within a week and the shop refused to take it back.",
    "A train from the coast arrived an hour late because of snow on the line, so the meeting began without them.",
    "Prices rose again in March.",
)
QUESTIONS = ("Who was surprised?", "When did prices rise?", "Why did the train arrive late, and what happened then?")


@dataclass(frozen=True)
class Library:
    """One Optimum package: its environment, and this package's runtime for the same files.

    Attributes:
        name: distribution name.
        requirements: packages of the environment besides torch.
        removed: declared dependencies that cause errors and are uninstalled.
        runtime: this package's name of the engine, whose version is the same in both environments.
    """

    name: str
    requirements: tuple[str, ...]
    runtime: str
    removed: tuple[str, ...] = ()


LIBRARIES = (
    Library("optimum-onnx", ("optimum-onnx[onnxruntime]==0.1.0",), "onnxruntime"),
    # torchvision is for vision models only. PyPI's build requires torch's CUDA build and fails to import with the CPU
    # build, and transformers imports it if it is installed.
    Library("optimum-intel", ("optimum-intel==2.2.0",), "openvino", removed=("torchvision",)),
)


@dataclass(frozen=True)
class _Texts:
    """The inputs: texts in the task's form, truncated to the deployment's length."""

    task: Task
    max_length: int

    def batches(self) -> list[list[list[str]]]:
        """Batches as tokenizer arguments: lists of first texts and, for tasks with pairs, of second texts."""
        if self.task.kind is TaskKind.QUESTION_ANSWERING:
            contexts = [" ".join(SENTENCES)] * len(QUESTIONS)
            return [[list(QUESTIONS), contexts], [[QUESTIONS[0]], [SENTENCES[1]]]]
        # A sentence encoder encodes the two texts of a pair separately.
        if len(self.task.text_columns) == 2 and self.task.kind is not TaskKind.EMBEDDING:
            return [[list(SENTENCES), list(SENTENCES[::-1])], [[SENTENCES[2]], [SENTENCES[5]]]]
        return [[list(SENTENCES)], [[SENTENCES[2]]]]

    def model_class(self) -> str:
        """The suffix after ``ORTModel`` or ``OVModel`` in the name of Optimum's class."""
        # Optimum's class for encoders expects token vectors; the deployment's outputs are pooled.
        return "ForCustomTasks" if self.task.head is Head.NONE else self.task.head.suffix

    def tokenizer_arguments(self) -> dict[str, Any]:
        """Tokenizer arguments of both sides."""
        return {"padding": True, "truncation": True, "max_length": self.max_length}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the given deployments; return the exit code."""
    parser = argparse.ArgumentParser(description="Open deployments with Optimum and compare logits.")
    parser.add_argument("deployments", nargs="*", type=Path, help="folders written by sparse-deploy export")
    parser.add_argument("--install-only", action="store_true", help="only make the environments")
    options = parser.parse_args(arguments)
    if not options.deployments and not options.install_only:
        parser.error("expected a deployment folder or --install-only")
    pythons = {library.name: install(library) for library in LIBRARIES}
    failures = 0
    for folder in options.deployments:
        results = list(check(folder, pythons)) or [("expected ONNX or OpenVINO files, found none", False)]
        for line, passed in results:
            sys.stdout.write(f"{'ok  ' if passed else 'FAIL'} {folder.name}: {line}\n")
            failures += not passed
    return int(failures > 0)


def environment_python(library: Library) -> Path | None:
    """The interpreter of a complete environment; None if it does not exist."""
    folder = CACHE / library.name
    ready = folder / READY
    whole = ready.is_file() and ready.read_text(encoding="utf-8") == _wanted(library)
    return folder / "bin" / "python" if whole else None


def install(library: Library) -> Path:
    """Make the environment of a library unless it exists.

    Returns:
        Its Python interpreter.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    if found := environment_python(library):
        return found
    folder = CACHE / library.name
    sys.stderr.write(f"making {folder}\n")
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check"]
    torch = f"torch=={version('torch').partition('+')[0]}"
    cpu_build = [*pip, "install", "--no-deps", "--retries", "0", "--timeout", "15", "--index-url", CPU_INDEX, torch]
    subprocess.run(cpu_build, check=False, stdin=subprocess.DEVNULL)  # if it fails, PyPI's build is used
    subprocess.run([*pip, "install", torch, *_requirements(library)], check=True, stdin=subprocess.DEVNULL)
    if library.removed:
        subprocess.run([*pip, "uninstall", "--yes", *library.removed], check=True, stdin=subprocess.DEVNULL)
    (folder / READY).write_text(_wanted(library), encoding="utf-8")
    return python


def check(folder: Path, pythons: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Check every model file of a deployment.

    Args:
        folder: the deployment.
        pythons: interpreter by library name.

    Yields:
        A line with the comparison, and whether it passed.

    Raises:
        SparseDeployError: the folder is not a complete deployment.
    """
    manifest = load_manifest(folder, "deployment")
    recipe = recipe_from_mapping(manifest.recipe, str(folder))
    texts = _Texts(task_of(recipe, folder), recipe.data.max_length)
    for library in LIBRARIES:
        files = {file: precision for precision, file in get_runtime(library.runtime).files.items()}
        present = [file for file in files if (folder / file).is_file()]
        if not present:
            continue
        wanted = [None, *present]  # also without a file name: Optimum must find the FP32 file itself
        answer, problem = _probe(library, pythons[library.name], folder, texts, wanted)
        if answer is None:
            yield f"{library.name}: {problem}", False
            continue
        versions = ", ".join(f"{name} {number}" for name, number in answer["versions"].items())
        for file, found in zip(wanted, answer["files"], strict=True):
            precision = files[file] if file else "fp32"
            words, passed = _compare(found, _our_answers(library, folder, precision, texts), ATOL[precision])
            yield f"{versions}, {file or 'default file'}: {words}", passed


def _compare(found: dict[str, Any], ours: Iterator[dict[str, Any]], atol: float) -> tuple[str, bool]:
    if "problem" in found:
        return found["problem"], False
    worst = 0.0
    for mine, theirs in zip(ours, found["batches"], strict=True):
        if mine["input_ids"] != theirs["input_ids"]:
            return "Optimum's tokenizer and sparse-deploy give different input ids", False
        pairs = zip(mine["outputs"], theirs["outputs"], strict=True)
        worst = max(worst, *(float(np.abs(logits - np.asarray(other)).max()) for logits, other in pairs))
    return f"{found['model_class']}, max |logit difference| {worst:.1e} (allowed {atol:g})", worst <= atol


def _probe(
    library: Library, python: Path, folder: Path, texts: _Texts, files: list[str | None]
) -> tuple[dict[str, Any] | None, str]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "answer.json"
        request = {
            "library": library.name,
            "model_class": texts.model_class(),
            "folder": str(folder.resolve()),
            "files": files,
            "batches": texts.batches(),
            "tokenizer_arguments": texts.tokenizer_arguments(),
            "answer": str(path),
        }
        done = subprocess.run(
            [str(python), str(PROBE)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            check=False,
        )
        if done.returncode or not path.is_file():
            lines = done.stderr.strip().splitlines()
            return None, f"the probe ended with {done.returncode}: {lines[-1] if lines else 'no message'}"
        return json.loads(path.read_text(encoding="utf-8")), ""


def _our_answers(library: Library, folder: Path, precision: str, texts: _Texts) -> Iterator[dict[str, Any]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = get_runtime(library.runtime).open(folder, precision, threads=1)
    try:
        for batch in texts.batches():
            encoded = tokenizer(*batch, **texts.tokenizer_arguments())
            inputs = {name: np.asarray(ids, np.int64) for name, ids in encoded.items()}
            yield {"input_ids": inputs["input_ids"].tolist(), "outputs": session.run(inputs)}
    finally:
        session.close()


def _requirements(library: Library) -> tuple[str, ...]:
    return (*library.requirements, f"{library.runtime}=={version(library.runtime)}")


def _wanted(library: Library) -> str:
    return " ".join((*_requirements(library), *(f"-{name}" for name in library.removed)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SparseDeployError as error:
        sys.stderr.write(f"check_optimum: {error}\n")
        sys.exit(2)
