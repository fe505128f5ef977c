# SPDX-License-Identifier: Apache-2.0
"""The sparse operators as an OpenVINO extension: finds the library, and compiles it against the installed OpenVINO.

OpenVINO's extension interface is C++ and the name of its library changes with every release, so an extension fits only
one release and can't be part of a wheel. It is stored next to ``libsparse_deploy_kernels.so``, which has the kernels
and is independent of runtimes. It is compiled when the package is installed, if OpenVINO is already installed, else on
first use, or at any time by ``python -m sparse_deploy.kernels.openvino_extension``. This needs a C++ compiler and the
``openvino`` wheel, which has headers, library and TBB.
"""

import argparse
import importlib.util
import logging
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import sparse_deploy.kernels
from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.kernels import loader

LIBRARY = "libsparse_deploy_openvino.so"
CURE = "run: python -m sparse_deploy.kernels.openvino_extension"
# csrc/openvino/register.cc stores it in the library. It is read from the file, because a library of another release
# can't be loaded.
_BUILT_FOR = re.compile(rb"sparse_deploy extension for (libopenvino\.so\.[0-9]+);")
_COMPILERS = ("c++", "g++", "clang++")
_WARNINGS = ("-Wall", "-Wextra")
_LAST_WORDS = 300
_LOG = logging.getLogger(__name__)


def openvino_library() -> Path:
    """The extension of the installed OpenVINO, for ``openvino.Core.add_extension``.

    Raises:
        RuntimeUnavailableError: OpenVINO or the library is missing, or they are of different releases.
    """
    path = loader.library_path(loader.KERNELS).with_name(LIBRARY)
    installed = _runtime_library(openvino_folder()).name
    if not path.is_file():
        raise RuntimeUnavailableError(f"{path}: the OpenVINO extension is not built; {CURE}")
    found = _BUILT_FOR.search(path.read_bytes())
    if found is None:
        raise RuntimeUnavailableError(f"{path}: expected the OpenVINO extension, found another file; {CURE}")
    if found[1].decode() != installed:
        raise RuntimeUnavailableError(
            f"{path}: the extension was built for {found[1].decode()}, installed is {installed}; {CURE}"
        )
    return path


def ready_openvino_library() -> Path:
    """As :func:`openvino_library`; compiles a missing extension, or one for another release, first.

    Raises:
        RuntimeUnavailableError: the extension can't be compiled: no OpenVINO, no compiler or no write permission.
    """
    try:
        return openvino_library()
    except RuntimeUnavailableError:
        runtime = _runtime_library(openvino_folder())
        if _compiler() is None:
            raise
    _LOG.warning("compiling the sparse operators for %s, once; this takes about 20 seconds", runtime.name)
    kernels = loader.library_path(loader.KERNELS)
    build(kernels.with_name(LIBRARY), kernels)
    return openvino_library()


def openvino_folder() -> Path:
    """The folder of the installed ``openvino`` package, without importing it.

    Raises:
        RuntimeUnavailableError: openvino is not installed.
    """
    spec = importlib.util.find_spec("openvino")
    # During a build, pip hides the packages of the target environment.
    folder = Path(spec.origin).parent if spec and spec.origin else Path(sysconfig.get_path("platlib"), "openvino")
    if not (folder / "libs").is_dir():
        raise RuntimeUnavailableError("openvino is not installed; install it with: pip install openvino")
    return folder


def build(output: Path, kernels: Path, compiler: str | None = None) -> None:
    """Compile the extension.

    Args:
        output: the library, written atomically.
        kernels: ``libsparse_deploy_kernels.so``. The extension searches for it in its own folder.
        compiler: a C++ compiler; default: the first of c++, g++ and clang++.

    Raises:
        RuntimeUnavailableError: OpenVINO or a compiler is missing, the compiler fails, or the folder isn't writable.
    """
    openvino = openvino_folder()
    compiler = compiler or _compiler()
    if compiler is None:
        raise RuntimeUnavailableError("the OpenVINO extension needs a C++ compiler; install GCC 11 or newer")
    try:
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            built = Path(folder, output.name)
            done = subprocess.run(
                [compiler, *_arguments(openvino, kernels), "-o", str(built)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                words = " ".join(done.stderr.split())[-_LAST_WORDS:]
                raise RuntimeUnavailableError(f"{compiler} can't compile the OpenVINO extension: {words}")
            built.replace(output)
    except OSError as error:
        raise RuntimeUnavailableError(f"{output}: can't be written: {error.strerror or error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the extension in the folder of the kernels; CMake passes the files (``csrc/CMakeLists.txt``)."""
    parser = argparse.ArgumentParser(prog=CURE.removeprefix("run: "), description=main.__doc__)
    parser.add_argument("--output", type=Path, help=f"default: {LIBRARY} in the folder of the kernels")
    parser.add_argument("--kernels", type=Path, help="libsparse_deploy_kernels.so; default: the installed one")
    parser.add_argument("--compiler")
    options = parser.parse_args(arguments)
    try:
        kernels = options.kernels or loader.library_path(loader.KERNELS)
        output = options.output or kernels.with_name(LIBRARY)
        build(output, kernels, options.compiler)
    except RuntimeUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{output}\n")
    return 0


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, _COMPILERS)), None)


def _arguments(openvino: Path, kernels: Path) -> list[str]:
    sources = _sources()
    runtime = _runtime_library(openvino)
    return [
        # The C++ ABI of OpenVINO's wheel, as in its CMake files.
        *("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", *_WARNINGS, "-D_GLIBCXX_USE_CXX11_ABI=1"),
        f'-DSPARSE_DEPLOY_OPENVINO="{runtime.name}"',
        f"-I{sources / 'include'}",
        *("-isystem", str(openvino / "include")),
        *(str(path) for folder in ("openvino", "operators") for path in sorted((sources / folder).glob("*.cc"))),
        # No path to OpenVINO is stored: the process has already loaded OpenVINO, and must not load a second copy.
        *(str(runtime), str(openvino / "libs" / "libtbb.so.12"), str(kernels)),
        *("-Wl,-rpath,$ORIGIN", "-Wl,-z,nodelete", "-Wl,--no-undefined", "-Wl,--exclude-libs,ALL", "-s"),
    ]


def _runtime_library(openvino: Path) -> Path:
    found = sorted((openvino / "libs").glob("libopenvino.so.*"))
    if not found:
        raise RuntimeUnavailableError(f"{openvino}: expected libs/libopenvino.so.*, found none; reinstall openvino")
    return found[-1]


def _sources() -> Path:
    folders = [Path(folder, "csrc") for folder in sparse_deploy.kernels.__path__]
    found = next((folder for folder in folders if (folder / "openvino").is_dir()), None)
    if found is None:
        raise RuntimeUnavailableError(f"{folders[0]}: the extension's sources are missing; reinstall sparse-deploy")
    return found


if __name__ == "__main__":
    sys.exit(main())
