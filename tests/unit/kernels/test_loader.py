# SPDX-License-Identifier: Apache-2.0
"""Search for the libraries, the messages for missing ones, and the binding of the C interface."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sparse_operators import layer_constants, linear_constants, sparse_weight

import sparse_deploy.kernels
from sparse_deploy.errors import ArtifactError, RuntimeUnavailableError
from sparse_deploy.kernels import abi, loader, reference
from sparse_deploy.kernels.loader import KERNELS, ONNXRUNTIME
from sparse_deploy.kernels.native import LINEARS, Layer, Linear, ThreadPool, Weight
from sparse_deploy.sparsity.packing import Encoding, encode

HEADER = Path(sparse_deploy.kernels.__file__).with_name("csrc") / "include" / "sparse_deploy_kernels.h"


@pytest.fixture
def fresh_loader(monkeypatch):
    """The loader without its cache, and without a folder from the environment."""
    monkeypatch.delenv(loader.FOLDER_VARIABLE, raising=False)
    loader.open_library.cache_clear()
    yield loader
    loader.open_library.cache_clear()


def other_version(folder: Path) -> Path:
    """A real library of another interface version."""
    source = folder / "other.cc"
    source.write_text('extern "C" int sd_abi_version() { return 7; }')
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler here")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / KERNELS, source], check=True)
    return folder


class TestFinding:
    def test_both_libraries_are_there_and_open(self):
        assert loader.onnxruntime_library().name == ONNXRUNTIME
        for library in (KERNELS, ONNXRUNTIME):
            found = loader.instruction_set(library)
            assert found.name in found.supported
            assert found.supported[-1] == "portable"

    def test_a_missing_library_is_one_line_with_a_cure(self, fresh_loader, monkeypatch, tmp_path):
        monkeypatch.setattr(sparse_deploy.kernels, "__path__", [str(tmp_path)])
        with pytest.raises(RuntimeUnavailableError) as caught:
            loader.onnxruntime_library()
        message = str(caught.value)
        assert "the sparse runtime is not installed" in message
        assert "pip install" in message
        assert "\n" not in message

    def test_the_reason_that_the_build_left_is_shown(self, fresh_loader, monkeypatch, tmp_path):
        (tmp_path / "not_built.txt").write_text("there was no C++ compiler when the package was installed\n")
        monkeypatch.setattr(sparse_deploy.kernels, "__path__", ["/nowhere", str(tmp_path)])
        with pytest.raises(RuntimeUnavailableError, match=r"no C\+\+ compiler when .* installed; install GCC"):
            loader.instruction_set()

    def test_a_library_of_another_version(self, fresh_loader, monkeypatch, tmp_path):
        monkeypatch.setenv(loader.FOLDER_VARIABLE, str(other_version(tmp_path)))
        with pytest.raises(
            RuntimeUnavailableError, match=rf"expected interface version {loader.ABI_VERSION} .*, found 7"
        ):
            loader.instruction_set()

    @pytest.mark.parametrize("content", [b"", b"no library at all"])
    def test_a_file_that_is_no_library(self, fresh_loader, monkeypatch, tmp_path, content):
        (tmp_path / ONNXRUNTIME).write_bytes(content)
        monkeypatch.setenv(loader.FOLDER_VARIABLE, str(tmp_path))
        with pytest.raises(RuntimeUnavailableError, match="the sparse runtime can't be opened"):
            loader.onnxruntime_library()

    def test_the_variable_names_a_folder_without_libraries(self, fresh_loader, monkeypatch, tmp_path):
        monkeypatch.setenv(loader.FOLDER_VARIABLE, str(tmp_path))
        with pytest.raises(RuntimeUnavailableError, match="SPARSE_DEPLOY_KERNELS must name the folder"):
            loader.onnxruntime_library()


class TestInstructionSet:
    ASK = "from sparse_deploy.kernels.loader import instruction_set as i; print(i().name, i().note, sep='|')"

    def ask(self, name: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", self.ASK],
            env={**os.environ, "SPARSE_DEPLOY_ISA": name},
            capture_output=True,
            text=True,
            check=True,
        )
        chosen, _, note = done.stdout.strip().partition("|")
        return chosen, note

    def test_the_variable_chooses_any_set_of_this_cpu(self):
        for name in loader.instruction_set().supported:
            assert self.ask(name) == (name, "")

    def test_an_unknown_set_falls_back_and_says_so(self):
        chosen, note = self.ask("avx1024")
        assert chosen == loader.instruction_set().supported[0]
        assert "avx1024" in note


class TestHeader:
    """The binding repeats the header by hand; these read it again."""

    text = HEADER.read_text()

    def test_the_version(self):
        assert f"#define SD_ABI_VERSION {loader.ABI_VERSION}\n" in self.text

    @pytest.mark.parametrize(
        ("structure", "name"),
        [
            (abi.Error, "sd_error"),
            (abi.Pool, "sd_pool"),
            (abi.Quantization, "sd_quantization"),
            (abi.WeightInfo, "sd_weight_info"),
            (abi.LinearConfig, "sd_linear_config"),
            (abi.LayerConfig, "sd_layer_config"),
        ],
    )
    def test_structures_have_the_size_that_the_compiler_gives_them(self, structure, name, tmp_path):
        compiler = shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            pytest.skip("no C++ compiler here")
        fields = [field for field, *_ in structure._fields_]
        checks = "".join(
            f'static_assert(offsetof({name}, {field}) == {getattr(structure, field).offset}, "{field}");\n'
            for field in fields
        )
        source = tmp_path / "check.cc"
        source.write_text(
            f'#include "{HEADER}"\n{checks}static_assert(sizeof({name}) == {ctypes.sizeof(structure)}, "size");\n'
        )
        subprocess.run([compiler, "-std=c++17", "-fsyntax-only", source], check=True)

    def test_every_exported_function_is_in_the_header(self):
        declared = set(re.findall(r"\b(sd_\w+)\(", self.text))
        tool = shutil.which("nm")
        if tool is None:
            pytest.skip("no nm here")
        path = loader._find(KERNELS)
        listed = subprocess.run([tool, "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
        exported = {line.split()[-1] for line in listed.splitlines()}
        assert {name for name in exported if not name.startswith("__")} == declared


class TestBinding:
    def test_a_weight_is_described_and_comes_back(self):
        matrix = sparse_weight(37, 50)
        weight = Weight(encode(matrix))
        info = weight.describe()
        assert info.shape == (37, 50)
        assert info.nonzeros == np.count_nonzero(matrix)
        assert info.packed_bytes > 0
        np.testing.assert_array_equal(weight.unpack(), matrix)

    @pytest.mark.parametrize("pool", [None, 3])
    def test_accumulators_are_exact(self, pool):
        matrix = sparse_weight(37, 50)
        x = np.random.default_rng(0).integers(0, 256, (21, 50)).astype(np.uint8)
        result = Weight(encode(matrix)).matmul_i32(x, pool and ThreadPool(pool))
        np.testing.assert_array_equal(result, x.astype(np.int32) @ matrix.T.astype(np.int32))

    @pytest.mark.parametrize("static", [None, (0.03, 120)])
    def test_a_linear_equals_numpy(self, static):
        constants = linear_constants(40, 30)
        linear = Linear(*constants.values(), static=static)
        x = np.random.default_rng(0).normal(0, 1, (9, 30)).astype(np.float32)
        wanted = reference.linear(x, *constants.values(), static=static)
        np.testing.assert_allclose(linear.run(x), wanted, atol=2e-3, rtol=0)
        np.testing.assert_array_equal(linear.run(x, ThreadPool(2)), linear.run(x))
        assert linear.weight.describe().shape == (40, 30)

    def test_a_linear_works_without_bias(self):
        constants = linear_constants(40, 30)
        x = np.random.default_rng(0).normal(0, 1, (2, 30)).astype(np.float32)
        with_bias = Linear(*constants.values()).run(x)
        without = Linear(constants["weight"], constants["scale"]).run(x)
        np.testing.assert_allclose(without + constants["bias"], with_bias, atol=1e-5)

    def test_a_layer_runs_and_shows_its_weights(self):
        parts = list(layer_constants(64, 96).values())
        linears = {name: tuple(parts[3 * index : 3 * index + 3]) for index, name in enumerate(LINEARS)}
        layer = Layer(linears, parts[18:22], heads=4, epsilon=1e-12)
        assert layer.weight("output").describe().shape == (64, 96)
        assert layer.weight("key").describe().shape == (64, 64)
        x = np.random.default_rng(0).normal(0, 1, (2, 7, 64)).astype(np.float32)
        mask = np.ones((2, 7), np.int64)
        serial = layer.run(x, mask)
        assert np.isfinite(serial).all()
        np.testing.assert_array_equal(layer.run(x, mask, ThreadPool(3)), serial)

    def test_a_weight_outlives_the_linear_that_holds_it(self):
        weight = Linear(*linear_constants(40, 30).values()).weight
        np.testing.assert_array_equal(weight.unpack(), sparse_weight(40, 30))

    def test_refusals_are_errors_with_a_line(self):
        blob = encode(sparse_weight(8, 40), Encoding.ELEMENT)
        for damaged in (blob[:0], blob[:20], blob[:-1]):
            with pytest.raises(ArtifactError, match=r".+"):
                Weight(damaged)
        with pytest.raises(ArtifactError, match=r".+"):
            Weight(blob, layout="no such layout")
        with pytest.raises(ValueError, match="expected uint8 \\[rows, 40\\], found uint8 \\[2, 41\\]"):
            Weight(blob).matmul_i32(np.zeros((2, 41), np.uint8))
        with pytest.raises(ValueError, match="expected an array of 8 values, found \\[9\\]"):
            Linear(blob, np.ones(9, np.float32))

    def test_the_profile_is_empty_unless_asked_for(self):
        assert loader.profile() == {}
