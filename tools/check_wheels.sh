#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install the wheels in dist/ (made by tools/build_wheels.sh) and run them.
#   tools/check_wheels.sh [x86_64] [aarch64]      default: both; PYTHON=python3.13 selects another Python
# The wheel of this machine's architecture is installed into an empty environment with the versions of constraints.txt,
# and runs a sparse file without access to a compiler. For the other architecture, the kernels' self-test runs with the
# wheel's library, emulated by qemu.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
work=$root/build/wheel-check
tools=$root/build/wheel-tools
rm -rf "$work"
mkdir -p "$work/probe" "$work/commands"

fail() {
  echo "check_wheels: $1" >&2
  exit 1
}

# the_wheel ARCHITECTURE: its only wheel in dist/.
the_wheel() {
  local found=(dist/sparse_deploy-*"$1".whl)
  [[ ${#found[@]} == 1 && -f ${found[0]} ]] || fail "expected one wheel for $1 in dist/, found ${found[*]}"
  echo "${found[0]}"
}

here() {
  local wheel=$1 python=$work/venv/bin/python pip=(-m pip --no-input --disable-pip-version-check --quiet)
  # Making the sparse file needs onnx, which must not be in the tested installation.
  local maker=$root/.venv/bin/python
  if ! "$maker" -c 'import onnx, scipy' 2>/dev/null; then
    maker=$tools/bin/python
    "$maker" -c '' 2>/dev/null || python3 -m venv "$tools"
    "$maker" "${pip[@]}" install --constraint constraints.txt numpy onnx scipy
  fi
  "$maker" tools/wheel_probe.py make "$work/probe"
  "${PYTHON:-python3}" -m venv "$work/venv"
  # No compiler, no CMake: a dependency without a wheel or a compilation of the kernels would be an error.
  for command in sh uname; do ln -s "$(command -v "$command")" "$work/commands/"; done
  without_compiler=(env -u CC -u CXX -u PYTHONPATH -u SPARSE_DEPLOY_KERNELS "PATH=$work/commands")
  "${without_compiler[@]}" "$python" "${pip[@]}" install --only-binary :all: --constraint constraints.txt "$wheel"
  (cd "$work" && "${without_compiler[@]}" "$python" -P "$root/tools/wheel_probe.py" run probe)  # -P: do not import the checkout
  "${without_compiler[@]}" "$work/venv/bin/sparse-deploy" serve --help >/dev/null
}

emulated() {
  local wheel=$1 architecture=$2 compiler=$2-linux-gnu-g++ emulator
  emulator=$(command -v "qemu-$architecture" || command -v "qemu-$architecture-static") || emulator=
  if [[ -z $emulator ]] || ! command -v "$compiler" >/dev/null; then
    echo "check_wheels: $architecture skipped: the self-test needs qemu-user and $compiler"
    return 0
  fi
  python3 -m zipfile -e "$wheel" "$work/$architecture"
  local kernels=$work/$architecture/sparse_deploy/kernels
  "$compiler" -std=c++17 -O1 -I "$kernels/csrc/include" tests/native/kernels_selftest.cc -o "$work/selftest" \
    -L "$kernels" -lsparse_deploy_kernels -pthread "-Wl,-rpath,$kernels"
  "$emulator" -L "/usr/$architecture-linux-gnu" "$work/selftest" |
    sed "s/^/check_wheels: $architecture, emulated: /"
}

(($#)) || set -- x86_64 aarch64
for architecture in "$@"; do
  wheel=$(the_wheel "$architecture")
  if [[ $architecture == "$(uname -m)" ]]; then here "$wheel"; else emulated "$wheel" "$architecture"; fi
done
