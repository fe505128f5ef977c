#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Run the kernel and operator tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer. A report ends the
# process and so fails its test. Arguments go to pytest. Needs .venv with the dev extra (tools/install.sh) and GCC.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compiler=${CXX:-c++}
# Python itself is not instrumented, so the sanitizer's runtime must be loaded first, together with libstdc++: otherwise
# exceptions in libraries loaded later cannot be intercepted.
asan=$("$compiler" -print-file-name=libasan.so)
stdcxx=$("$compiler" -print-file-name=libstdc++.so)
[[ -f $asan ]] || { echo "sanitize: expected GCC with libasan, found none with $compiler; install libasan" >&2; exit 2; }

export PATH=$PWD/.venv/bin:$PATH SPARSE_DEPLOY_KERNELS=$PWD/build/sanitize
cmake -S sparse_deploy/kernels/csrc -B "$SPARSE_DEPLOY_KERNELS" -G Ninja --log-level=WARNING \
  -DSPARSE_DEPLOY_SANITIZE=address,undefined </dev/null
cmake --build "$SPARSE_DEPLOY_KERNELS" </dev/null

# Leaks are not reported: Python and ONNX Runtime do not release all memory at exit.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
tests=(tests/unit/kernels tests/integration/test_ort_operators.py)
(($#)) || set -- -q -p no:cacheprovider
# --capture=sys: otherwise the report of a crashing process is lost in the standard error that pytest captured.
LD_PRELOAD="$asan $stdcxx" .venv/bin/python -m pytest --capture=sys "${tests[@]}" "$@" </dev/null
