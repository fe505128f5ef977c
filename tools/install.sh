#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make .venv and install sparse-deploy into it, with the extras named (demo,dev) and the versions of constraints.txt.
# The kernels are compiled; pip fetches CMake and Ninja if the machine has none. Without a compiler the package is
# installed without the kernels. A second run with the same inputs does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "install: expected Python 3.11 or newer, found $("$python" --version 2>&1); set PYTHON=/path/to/python3" >&2
  exit 2
fi
stamp=.venv/.installed-${extras//,/-}
compiler=$("${CXX:-c++}" --version 2>/dev/null | head -n 1 || true)
inputs=$({
  cat pyproject.toml constraints.txt
  find sparse_deploy/kernels/csrc -type f -print0 | sort -z | xargs -0 sha256sum
  echo "$compiler"
} | sha256sum)
if [[ -f $stamp && $(<"$stamp") == "$inputs" ]] && .venv/bin/python -c 'import sparse_deploy' 2>/dev/null; then
  exit 0
fi

echo "install: sparse-deploy[$extras] into $PWD/.venv (about 2 GB the first time)" >&2
if ! .venv/bin/python -c '' 2>/dev/null; then
  "$python" -m venv --clear .venv
fi
pip=(.venv/bin/python -m pip install --quiet --quiet --no-input --disable-pip-version-check)
# PyPI's torch for Linux has 3 GB of CUDA libraries that a CPU never loads; the CPU build has a separate index. If that
# is unreachable, the next line installs the build of the configured index.
"${pip[@]}" --no-deps --retries 1 --timeout 15 --index-url https://download.pytorch.org/whl/cpu \
  "$(grep '^torch==' constraints.txt)" 2>/dev/null || echo "install: the CPU build of torch is not available; installing the default build" >&2
"${pip[@]}" --constraint constraints.txt --editable ".[$extras]"
# pip builds the kernels before OpenVINO is installed; its extension is compiled here.
if .venv/bin/python -c 'import openvino' 2>/dev/null; then
  .venv/bin/python -m sparse_deploy.kernels.openvino_extension >/dev/null 2>&1 ||
    echo "install: installed without the operators for OpenVINO, which need a C++ compiler; everything else works" >&2
fi
echo "$inputs" >"$stamp"
.venv/bin/python -c 'from sparse_deploy.kernels.loader import onnxruntime_library; onnxruntime_library()' 2>/dev/null ||
  echo "install: installed without the sparse runtime, which needs a C++ compiler (GCC 11 or newer); everything else works" >&2
