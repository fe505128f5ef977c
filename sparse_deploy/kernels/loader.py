# SPDX-License-Identifier: Apache-2.0
"""Finds and opens the two compiled libraries; an error gives the reason for a missing one.

They are in the folder of this file or, in an editable installation, in the package's second folder in
``site-packages``. The variable ``SPARSE_DEPLOY_KERNELS`` names another folder, for a build under test.
"""

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import sparse_deploy.kernels
from sparse_deploy.errors import RuntimeUnavailableError

KERNELS = "libsparse_deploy_kernels.so"
ONNXRUNTIME = "libsparse_deploy_onnxruntime.so"
FOLDER_VARIABLE = "SPARSE_DEPLOY_KERNELS"
ABI_VERSION = 4

# Written by a build that could not compile; see csrc/CMakeLists.txt.
_NOT_BUILT = "not_built.txt"
_REMEDY = (
    "install GCC 11 or newer, then run: pip install --force-reinstall --no-deps --no-cache-dir sparse-deploy "
    "(in a checkout: pip install --no-deps -e .)"
)


@dataclass(frozen=True)
class InstructionSet:
    """The instruction sets of a library.

    Attributes:
        name: the set in use, such as ``avx512_vbmi``.
        note: reason why it is not the set in ``SPARSE_DEPLOY_ISA``, else empty.
        supported: the sets that this CPU supports, best first.
    """

    name: str
    note: str
    supported: tuple[str, ...]


def onnxruntime_library() -> Path:
    """The custom-operator library, for ``SessionOptions.register_custom_ops_library``.

    Raises:
        RuntimeUnavailableError: the library is missing, can't be opened, or is of another version.
    """
    open_library(ONNXRUNTIME)
    return _find(ONNXRUNTIME)


def library_path(name: str) -> Path:
    """The path of a library, which is not opened.

    Raises:
        RuntimeUnavailableError: the library is missing.
    """
    return _find(name)


def instruction_set(library: str = KERNELS) -> InstructionSet:
    """The instruction set of a library; each has its own copy of the kernels and chooses once.

    Raises:
        RuntimeUnavailableError: as for :func:`onnxruntime_library`.
    """
    functions = open_library(library)
    name, note, supported = (
        _text(getattr(functions, function)) for function in ("sd_isa", "sd_isa_note", "sd_isa_supported")
    )
    return InstructionSet(name, note, tuple(supported.split(",")))


def layouts() -> tuple[str, ...]:
    """The weight layouts.

    Raises:
        RuntimeUnavailableError: as for :func:`onnxruntime_library`.
    """
    return tuple(_text(open_library(KERNELS).sd_layouts).split(","))


def profile(library: str = KERNELS) -> dict[str, float]:
    """Seconds per phase since the last call, summed over threads; empty unless ``SPARSE_DEPLOY_PROFILE=1``.

    Raises:
        RuntimeUnavailableError: as for :func:`onnxruntime_library`.
    """
    function = open_library(library).sd_profile
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    text = ctypes.create_string_buffer(1 << 16)
    function(text, len(text))
    lines = (line.rsplit(" ", 1) for line in text.value.decode().splitlines())
    return {name: float(seconds) for name, seconds in lines}


@cache
def open_library(name: str) -> ctypes.CDLL:
    """Open a library by file name and check its interface version.

    Raises:
        RuntimeUnavailableError: as for :func:`onnxruntime_library`.
    """
    path = _find(name)
    try:
        library = ctypes.CDLL(str(path))
        found = int(library.sd_abi_version())
    except (OSError, AttributeError) as error:
        raise RuntimeUnavailableError(f"{path}: the sparse runtime can't be opened: {error}; {_REMEDY}") from error
    if found != ABI_VERSION:
        raise RuntimeUnavailableError(
            f"{path}: expected interface version {ABI_VERSION} of the sparse runtime, found {found}; {_REMEDY}"
        )
    return library


def _find(name: str) -> Path:
    if chosen := os.environ.get(FOLDER_VARIABLE):
        path = Path(chosen) / name
        if path.is_file():
            return path.resolve()
        raise RuntimeUnavailableError(f"{path}: no such file; {FOLDER_VARIABLE} must name the folder of the libraries")
    folders = [Path(folder) for folder in sparse_deploy.kernels.__path__]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
    reasons = [(folder / _NOT_BUILT).read_text().strip() for folder in folders if (folder / _NOT_BUILT).is_file()]
    reason = reasons[0] if reasons else f"{name} is in none of {', '.join(map(str, folders))}"
    raise RuntimeUnavailableError(f"the sparse runtime is not installed: {reason}; {_REMEDY}")


def _text(function: Any) -> str:
    function.restype = ctypes.c_char_p
    text: bytes = function()
    return text.decode()
