# SPDX-License-Identifier: Apache-2.0
"""The wheel as a user gets it: compiled where there is a compiler, whole but for the kernels where there is none."""

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# It compiles every instruction set, and the extension against OpenVINO's headers.
pytestmark = pytest.mark.timeout(1500)

ROOT = Path(__file__).parents[2]
KERNELS = "sparse_deploy/kernels/"
LIBRARIES = {f"{KERNELS}libsparse_deploy_kernels.so", f"{KERNELS}libsparse_deploy_onnxruntime.so"}
# Only where OpenVINO is installed by the time of the build.
EXTENSION = "libsparse_deploy_openvino.so"
# What CMake, Ninja and pip start besides themselves. A compiler is not among them.
TOOLS_WITHOUT_COMPILER = ("sh", "uname")


def build_wheel(source: Path, folder: Path, *options: str, environment: dict[str, str] | None = None) -> Path:
    """With the build tools of the dev extra instead of pip's isolation: nothing is downloaded."""
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "wheel"]
    command += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), *options, str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpacked(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_in(folder: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with the package of ``folder``, not the checkout's; ``-S`` and a path keep the editable one away."""
    libraries = [entry for entry in sys.path if entry.endswith("site-packages")]
    code = f"import sys; sys.path[:0] = {[str(folder), *libraries]!r}\n{script}"
    return subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],
        cwd=folder,
        env={**os.environ, **variables, "SPARSE_DEPLOY_KERNELS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The source distribution, unpacked: what a package index would serve."""
    folder = tmp_path_factory.mktemp("sdist")
    script = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    (unpacked_source,) = (path for path in folder.iterdir() if (path / "pyproject.toml").is_file())
    return unpacked_source


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A wheel of this checkout. Its build folder stays, so a second run compiles only what changed."""
    if not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("no C++ compiler here")
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"), "--config-settings=build-dir=build/kernels")


@pytest.fixture(scope="module")
def without_compiler(source, tmp_path_factory) -> Path:
    """A wheel made from the source distribution where no compiler can be found."""
    folder = tmp_path_factory.mktemp("poor")
    tools = folder / "bin"
    tools.mkdir()
    for name in TOOLS_WITHOUT_COMPILER:
        (tools / name).symlink_to(shutil.which(name))
    hidden = ("CC", "CXX", "CMAKE_ARGS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"PATH": str(tools)}
    return build_wheel(source, folder / "wheel", environment=environment)


class TestCompiledWheel:
    def test_is_for_any_python_3_on_this_platform(self, compiled):
        assert compiled.name.endswith("-py3-none-linux_x86_64.whl")

    def test_holds_libraries_recipes_and_header_and_only_the_sources_of_the_openvino_extension(self, compiled):
        names = set(zipfile.ZipFile(compiled).namelist())
        assert names >= LIBRARIES
        assert f"{KERNELS}csrc/include/sparse_deploy_kernels.h" in names
        recipes = {f"sparse_deploy/recipes/{path.name}" for path in (ROOT / "export_configs").glob("*.yaml")}
        assert recipes
        assert recipes <= names
        extension = tuple(f"{KERNELS}csrc/{folder}/" for folder in ("openvino", "operators"))
        assert {name for name in names if name.endswith(".cc")} == {
            path.relative_to(ROOT).as_posix() for folder in extension for path in (ROOT / folder).glob("*.cc")
        }
        assert not [name for name in names if name.endswith((".pyc", ".txt")) and name.startswith("sparse_deploy/")]

    def test_version_is_that_of_the_package(self, compiled):
        import sparse_deploy

        archive = zipfile.ZipFile(compiled)
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert email.message_from_bytes(archive.read(metadata))["Version"] == sparse_deploy.__version__

    def test_works_away_from_the_checkout(self, compiled, tmp_path):
        folder = unpacked(compiled, tmp_path / "site")
        script = (
            "from sparse_deploy.kernels.loader import ONNXRUNTIME, instruction_set, onnxruntime_library\n"
            "import onnxruntime\n"
            "onnxruntime.SessionOptions().register_custom_ops_library(str(onnxruntime_library()))\n"
            "print(onnxruntime_library(), instruction_set(ONNXRUNTIME).name)"
        )
        done = run_in(folder, script, SPARSE_DEPLOY_ISA="portable")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(folder / KERNELS / "libsparse_deploy_onnxruntime.so"), "portable"]

    @pytest.mark.parametrize("library", sorted(LIBRARIES))
    def test_needs_nothing_but_the_c_library(self, compiled, library, tmp_path):
        tool = shutil.which("readelf")
        if tool is None:
            pytest.skip("no readelf here")
        path = unpacked(compiled, tmp_path) / library
        listed = subprocess.run([tool, "-d", path], capture_output=True, text=True, check=True).stdout
        needed = {line.split("[")[1].rstrip("]") for line in listed.splitlines() if "(NEEDED)" in line}
        assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"}


class TestSourceDistribution:
    def test_holds_every_file_that_the_build_reads(self, source):
        tracked = {path.relative_to(ROOT) for path in (ROOT / KERNELS / "csrc").rglob("*") if path.is_file()}
        tracked |= {path.relative_to(ROOT) for path in (ROOT / "export_configs").glob("*.yaml")}
        assert len(tracked) > 30
        assert not [path for path in tracked if not (source / path).is_file()]


class TestWithoutCompiler:
    def test_the_wheel_is_whole_but_for_the_libraries(self, without_compiler, compiled):
        names = set(zipfile.ZipFile(without_compiler).namelist())
        assert set(zipfile.ZipFile(compiled).namelist()) - names - {f"{KERNELS}{EXTENSION}"} == LIBRARIES

    def test_the_loader_says_why_and_what_to_do(self, without_compiler, tmp_path):
        folder = unpacked(without_compiler, tmp_path / "site")
        script = (
            "from sparse_deploy.kernels.loader import onnxruntime_library\n"
            "from sparse_deploy.errors import RuntimeUnavailableError\n"
            "try:\n    onnxruntime_library()\nexcept RuntimeUnavailableError as error:\n    print(error)"
        )
        done = run_in(folder, script)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.startswith("the sparse runtime is not installed: there was no C++ compiler")
        assert "pip install" in line

    def test_the_command_line_works(self, without_compiler, tmp_path):
        folder = unpacked(without_compiler, tmp_path / "site")
        done = run_in(folder, "from sparse_deploy.cli.main import main\nsys.argv = ['sparse-deploy', '--help']\nmain()")
        assert done.returncode == 0, done.stderr
        assert "export" in done.stdout
