# SPDX-License-Identifier: Apache-2.0
"""The check of the declared ONNX Runtime interface notices every kind of mistake in it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "sparse_deploy" / "kernels" / "csrc" / "onnxruntime"


def check(source: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tools" / "check_ort_abi.sh"
    return subprocess.run([script, source], env=os.environ | variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def official_header():
    done = check(SOURCES / "abi_check.cc")
    if "skipped" in done.stdout or "nothing was compared" in done.stderr:
        pytest.skip(done.stdout.strip() or done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_our_interface_is_the_official_one(official_header):
    assert "agrees with the official header of API version" in official_header


@pytest.mark.parametrize(
    ("right", "wrong", "word"),
    [
        ("X(274, KernelContext_ParallelFor", "X(273, KernelContext_ParallelFor", "a different position"),
        ("const char *name, int64_t *out", "const char *name, int32_t *out", "a different type"),
        ("size_t total, size_t batches, void *arg", "size_t total, void *arg, size_t batches", "a different type"),
        ("X(GetInputTypeCount, size_t,", "X(GetInputTypeCount, int,", "a different type"),
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


def test_without_a_header_the_check_fails_unless_told_to_leave_it_out(tmp_path):
    # An apt of no machine: the folder of commands holds what the script needs before it fetches, and nothing else.
    for name in ("bash", "dirname", "c++"):
        (tmp_path / name).symlink_to(shutil.which(name) or "/bin/true")
    empty = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "ORT_INCLUDE": ""}
    done = check(SOURCES / "abi_check.cc", **empty)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing was compared: no header" in done.stderr
    left_out = check(SOURCES / "abi_check.cc", **empty, SPARSE_DEPLOY_SKIP_ORT_HEADER="1")
    assert left_out.returncode == 0
    assert left_out.stdout.startswith("check_ort_abi: skipped because of SPARSE_DEPLOY_SKIP_ORT_HEADER: no header")
