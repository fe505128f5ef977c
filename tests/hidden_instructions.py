# SPDX-License-Identifier: Apache-2.0
"""``python tests/hidden_instructions.py CMD``: run CMD as on a CPU without AVX-512, AMX and VNNI, at native speed.

ONNX Runtime reads the CPU's instruction sets by cpuid, and no variable changes this. So the command uses copies of the
libraries of ONNX Runtime and OpenVINO whose cpuid instructions raise a signal; a preloaded library
(``hidden_instructions.c``) handles it and returns the reduced set. oneDNN, PyTorch and this package's operators are
limited by environment variables. Needs gcc and objdump. The copies are cached by the libraries' sizes and times.
"""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

TOOLS = ("gcc", "objdump")
_PRELOADED = Path(__file__).with_suffix(".c")
# The libraries that choose their code by cpuid.
_ASKING = {
    "onnxruntime": ("capi/onnxruntime_pybind11_state*.so",),
    "openvino": ("libs/libopenvino_intel_cpu_plugin.so", "libs/libopenvino.so.*"),
}
_CPUID, _TRAP = b"\x0f\xa2", b"\x0f\x0b"  # equal length
_VARIABLES = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "SPARSE_DEPLOY_ISA": "avx2"}


def available() -> bool:
    """Whether this machine has the tools."""
    return all(map(shutil.which, TOOLS))


def environment(folder: Path | None = None) -> dict[str, str]:
    """Environment variables of a process from which the instructions are hidden.

    Args:
        folder: folder of the changed libraries; default: one per user in the temporary folder.
    """
    if "hidden.so" in os.environ.get("LD_PRELOAD", ""):  # this process already has it
        return dict(os.environ)
    site = _changed_libraries(folder or Path(f"/tmp/sparse-deploy-hidden-{os.getuid()}"))
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    return os.environ | _VARIABLES | {"PYTHONPATH": path, "LD_PRELOAD": str(site / "hidden.so")}


def _changed_libraries(folder: Path) -> Path:
    sources = {name: Path(str(importlib.util.find_spec(name).origin)).parent for name in _ASKING}  # type: ignore[union-attr]
    asking = [
        (name, found) for name, patterns in _ASKING.items() for one in patterns for found in sources[name].glob(one)
    ]
    facts = [(str(found), found.stat().st_size, found.stat().st_mtime_ns) for _, found in asking]
    key = hashlib.sha256(repr(facts).encode() + _PRELOADED.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    site = folder / key[:16]
    if site.is_dir():
        return site
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    building = folder / f"{key[:16]}.{os.getpid()}"
    for name, source in sources.items():
        shutil.copytree(source, building / name, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    with ThreadPool() as pool:
        changed = pool.map(_with_traps, [library for _, library in asking])
    for (name, library), content in zip(asking, changed, strict=True):
        target = building / name / library.relative_to(sources[name])
        target.unlink()
        target.write_bytes(content)
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", "-o", str(building / "hidden.so"), str(_PRELOADED), "-ldl"], check=True
    )
    try:
        building.rename(site)
    except OSError:  # another process has written them meanwhile
        shutil.rmtree(building)
    return site


def _with_traps(library: Path) -> bytes:
    content = bytearray(library.read_bytes())
    listing = subprocess.run(
        f"objdump -d --no-show-raw-insn {shlex.quote(str(library))} | grep -F cpuid",
        shell=True, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    segments = list(_segments(content))
    for match in re.finditer(r"^\s*([0-9a-f]+):\s+cpuid", listing, re.MULTILINE):
        address = int(match[1], 16)
        place = next(address - start + offset for start, offset, size in segments if start <= address < start + size)
        assert content[place : place + 2] == _CPUID
        content[place : place + 2] = _TRAP
    return bytes(content)


def _segments(elf: bytearray) -> Iterator[tuple[int, int, int]]:
    """Address, file offset and size of the loaded segments of an ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 32)
    entry_bytes, entries = struct.unpack_from("<HH", elf, 54)
    for number in range(entries):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", elf, table + number * entry_bytes)
        if kind == 1:
            yield address, offset, size


if __name__ == "__main__":
    os.execvpe(sys.argv[1], sys.argv[1:], environment())
