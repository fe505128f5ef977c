# SPDX-License-Identifier: Apache-2.0
"""The extension's file: missing, of another release, not an extension: compiled, or one line with the command."""

import shutil

import pytest
from openvino_extension import needs_extension

from sparse_deploy.errors import RuntimeUnavailableError
from sparse_deploy.kernels import loader, openvino_extension
from sparse_deploy.kernels.openvino_extension import (
    CURE,
    LIBRARY,
    main,
    openvino_folder,
    openvino_library,
    ready_openvino_library,
)
from sparse_deploy.runtimes import get_runtime


@pytest.fixture
def built():
    """The installed extension; requested before ``libraries`` hides it."""
    return openvino_library()


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(openvino_extension.shutil, "which", lambda name: None)


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """A folder with the kernels and no extension."""
    shutil.copy(loader.library_path(loader.KERNELS), tmp_path)
    monkeypatch.setenv(loader.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def refusal():
    with pytest.raises(RuntimeUnavailableError) as caught:
        openvino_library()
    message = str(caught.value)
    assert "\n" not in message
    assert not get_runtime("openvino-sparse").available()
    return message


@pytest.mark.usefixtures("no_compiler")
def test_not_built(libraries):
    assert refusal() == f"{libraries / LIBRARY}: the OpenVINO extension is not built; {CURE}"


@pytest.mark.usefixtures("no_compiler")
def test_another_file_under_its_name(libraries):
    (libraries / LIBRARY).write_bytes(b"\x7fELF")
    assert "expected the OpenVINO extension, found another file" in refusal()


@needs_extension
@pytest.mark.usefixtures("no_compiler")
def test_built_for_another_release(tmp_path, monkeypatch):
    built, installed = openvino_library(), next((openvino_folder() / "libs").glob("libopenvino.so.*")).name
    shutil.copy(loader.library_path(loader.KERNELS), tmp_path)
    (tmp_path / LIBRARY).write_bytes(built.read_bytes().replace(installed.encode(), b"libopenvino.so.2599"))
    monkeypatch.setenv(loader.FOLDER_VARIABLE, str(tmp_path))
    message = refusal()
    assert f"the extension was built for libopenvino.so.2599, installed is {installed}" in message
    assert message.endswith(CURE)


def test_without_openvino(libraries, monkeypatch):
    monkeypatch.setattr(openvino_extension.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(openvino_extension.sysconfig, "get_path", lambda name: str(libraries))
    assert "pip install openvino" in refusal()


@needs_extension
def test_compiled_on_first_use_and_said_so(built, libraries, monkeypatch, caplog):
    monkeypatch.setattr(openvino_extension, "build", lambda output, kernels: shutil.copy(built, output))
    assert get_runtime("openvino-sparse").available()
    assert "compiling the sparse operators for libopenvino.so." in caplog.text
    caplog.clear()
    assert ready_openvino_library() == libraries / LIBRARY
    assert caplog.text == ""


@pytest.mark.usefixtures("no_compiler")
def test_no_compiler(libraries, capsys):
    assert main([]) == 1
    assert "needs a C++ compiler" in capsys.readouterr().err
    assert not (libraries / LIBRARY).exists()


def test_a_compiler_that_fails_leaves_nothing(libraries, capsys):
    assert main(["--compiler", shutil.which("false")]) == 1
    assert "can't compile the OpenVINO extension" in capsys.readouterr().err
    assert {path.name for path in libraries.iterdir()} == {loader.KERNELS}
