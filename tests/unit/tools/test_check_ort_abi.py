# SPDX-License-Identifier: Apache-2.0
"""The check of our ONNX Runtime interface notices every kind of mistake in it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "sparse_deploy" / "kernels" / "csrc" / "onnxruntime"


def check(source: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tools" / "check_ort_abi.sh"
    return subprocess.run([script, source], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def official_header():
    done = check(SOURCES / "abi_check.cc")
    if "skipped" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_our_interface_is_the_official_one(official_header):
    assert "agrees with the official header of API version" in official_header


@pytest.mark.parametrize(
    ("right", "wrong", "word"),
    [
        ("X(274, KernelContext_ParallelFor", "X(273, KernelContext_ParallelFor", "another place"),
        ("const char *name, int64_t *out", "const char *name, int32_t *out", "another type"),
        ("size_t total, size_t batches, void *arg", "size_t total, void *arg, size_t batches", "another type"),
        ("X(GetInputTypeCount, size_t,", "X(GetInputTypeCount, int,", "another type"),
        (
            "X(GetStartVersion, int, (const CustomOp *op))",
            "X(GetEndVersion2, int, (const CustomOp *op))",
            "GetEndVersion2",
        ),
        ("constexpr uint32_t kApiVersion = 18", "constexpr uint32_t kApiVersion = 1800", "older than the requested"),
    ],
)
def test_a_mistake_is_noticed(official_header, right, wrong, word, tmp_path):
    header = (SOURCES / "ort_abi.h").read_text()
    assert right in header
    (tmp_path / "ort_abi.h").write_text(header.replace(right, wrong, 1))
    (tmp_path / "abi_check.cc").write_text((SOURCES / "abi_check.cc").read_text())
    done = check(tmp_path / "abi_check.cc")
    assert done.returncode == 1
    assert word in done.stderr
