#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install into .venv, then run all checks: lint, format, types, import contract, generated docs, the copy of ONNX
# Runtime's C interface, tests.
# Arguments go to pytest: ./test.sh tests/unit/sparsity -k block
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
bash tools/install.sh demo,dev </dev/null || exit

# The tests' models are tiny: more threads are not faster.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TOKENIZERS_PARALLELISM=false
# Tests never download: a missing file must fail at once, without retries.
export HF_HUB_OFFLINE=1
failed=()

check() {
  local name=$1
  shift
  echo "== $name"
  "$@" </dev/null || failed+=("$name")
}

check lint .venv/bin/ruff check .
check format .venv/bin/ruff format --check .
check types .venv/bin/mypy
check imports .venv/bin/lint-imports
for folder in benchmarks tests; do
  check "imports of $folder" bash -c "cd $folder && ../.venv/bin/lint-imports"
done
check docs .venv/bin/python tools/generate_docs.py --check
check abi tools/check_ort_abi.sh
if ((${#failed[@]})); then
  echo "== failed before the tests: ${failed[*]}" >&2
fi
echo "== tests"
# One worker per core, one file at a time; most tests use one thread. No test measures time.
workers=$(($(nproc) < 4 ? $(nproc) : 4))
.venv/bin/python -m pytest --numprocesses "$workers" --dist loadfile "$@" </dev/null || failed+=(tests)
exit $((${#failed[@]} > 0))
