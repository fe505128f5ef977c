# SPDX-License-Identifier: Apache-2.0
"""Write the hash-locked requirements of the images, docker/requirements-*.txt, from pyproject.toml and constraints.txt.

pip resolves each set with the versions of constraints.txt and lists the wheels that it would install; the file records
their SHA-256, so that a build with other files fails. A file is valid for one Python and one platform: run this script
with the Python of the base image (3.11). ``--check`` needs no network: it compares versions and names with both.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docker"
# The packages of each file: extras of the package, or the tools that build its wheel.
SETS: Mapping[str, tuple[str, ...]] = {
    "requirements-serve.txt": ("signing",),
    "requirements-serve-openvino.txt": ("openvino", "signing"),
    "requirements-toolchain.txt": ("signing", "toolchain"),
}
BUILD_SET = "requirements-build.txt"
BUILD_TOOLS = ("cmake", "ninja", "scikit-build-core")
# PyPI's torch for Linux is the CUDA build; the images use PyTorch's CPU build, which has this local version.
CPU_TORCH = "+cpu"
_NOTICE = """# SPDX-License-Identifier: Apache-2.0
# Written by tools/lock_requirements.py; change constraints.txt, then run it again.
"""
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)")


class Wheel(NamedTuple):
    """A distribution in pip's resolution: normalized name, version, hexadecimal SHA-256 of its file."""

    name: str
    version: str
    sha256: str


def main() -> int:
    """Write or check all files; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if a file is out of date")
    if parser.parse_args().check:
        problems = list(find_problems())
        sys.stderr.writelines(f"{problem}\n" for problem in problems)
        return int(bool(problems))
    project = read_project()
    for name, extras in SETS.items():
        wheels = resolve(expand(project, extras))
        (FOLDER / name).write_text(lock_text(wheels), encoding="utf-8")
        sys.stderr.write(f"{name}: {len(wheels)} packages\n")
    (FOLDER / BUILD_SET).write_text(lock_text(resolve(BUILD_TOOLS)), encoding="utf-8")
    return 0


def find_problems() -> Iterator[str]:
    """The differences of a file from constraints.txt and pyproject.toml, one line each."""
    versions = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    project = read_project()
    wanted = {name: expand(project, extras) for name, extras in SETS.items()} | {BUILD_SET: list(BUILD_TOOLS)}
    for name, requirements in wanted.items():
        locked = pins((FOLDER / name).read_text(encoding="utf-8"))
        for package, version in locked.items():
            if version.removesuffix(CPU_TORCH) != versions.get(package):
                yield f"docker/{name}: {package}=={version}, and constraints.txt has {versions.get(package)}"
        for missing in sorted({_name_of(requirement) for requirement in requirements} - locked.keys()):
            yield f"docker/{name}: {missing} is a dependency in pyproject.toml and not in the file"


def read_project() -> dict[str, Any]:
    """The ``project`` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def expand(project: Mapping[str, Any], extras: Iterable[str]) -> list[str]:
    """The base dependencies and those of the extras, with extras of this package resolved."""
    found = list(project["dependencies"])
    waiting = list(extras)
    while waiting:
        for requirement in project["optional-dependencies"][waiting.pop()]:
            if _name_of(requirement) == project["name"]:
                waiting += re.search(r"\[(.*)\]", requirement)[1].split(",")  # type: ignore[index]
            else:
                found.append(requirement)
    return found


def pins(text: str) -> dict[str, str]:
    """Versions by package name of a constraints or requirements file."""
    return {found[1]: found[2] for line in text.splitlines() if (found := _PIN.match(line))}


def resolve(requirements: Iterable[str]) -> list[Wheel]:
    """The wheels that pip would install into an empty environment, sorted by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        constraints = Path(folder, "constraints.txt")
        constraints.write_text(re.sub(r"(?m)^(torch==\S+)$", rf"\1{CPU_TORCH}", (ROOT / "constraints.txt").read_text()))
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary",
            ":all:", "--constraint", str(constraints), "--report", str(report), *requirements,
        ]  # fmt: skip
        subprocess.run(command, check=True, env=_pip_environment())
        return sorted(_wheel_of(entry) for entry in json.loads(report.read_text(encoding="utf-8"))["install"])


def lock_text(wheels: Iterable[Wheel]) -> str:
    """The file's text: a pin and a hash per package."""
    return _NOTICE + "".join(f"{w.name}=={w.version} \\\n    --hash=sha256:{w.sha256}\n" for w in wheels)


def _pip_environment() -> dict[str, str]:
    # Not in constraints.txt, because users should not pass a local version to pip.
    index = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
    if index and not _answers(index):
        sys.stderr.write(f"{index} does not answer; torch's CPU build must come from the indexes of pip's settings\n")
        index = ""
    known = os.environ.get("PIP_EXTRA_INDEX_URL", "")
    return os.environ | {"PIP_EXTRA_INDEX_URL": f"{known} {index}".strip()} if index else dict(os.environ)


@functools.cache
def _answers(index: str) -> bool:
    """Whether an index can be reached; pip would try an unreachable index five times for each package."""
    try:
        with urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=15):  # noqa: S310 - the user names it
            return True
    except OSError:
        return False


def _wheel_of(entry: Mapping[str, Any]) -> Wheel:
    hashes = entry["download_info"]["archive_info"]["hashes"]
    return Wheel(_normalized(entry["metadata"]["name"]), entry["metadata"]["version"], hashes["sha256"])


def _name_of(requirement: str) -> str:
    return _normalized(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
