#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kernel checks outside the Python tests: tests/native/kernels_selftest.cc for 64-bit Arm, emulated by qemu; under
# ThreadSanitizer; with the AVX-VNNI kernels in the encoding of AVX-512, which more CPUs have; and compiled by Clang.
# Arguments: arm, threads, evex, clang (default: all). Missing compilers and emulators are installed by apt; a check
# without its tools is skipped with a message.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/.venv/bin:$PATH
source=sparse_deploy/kernels/csrc

# The first of the commands that exists.
first() {
  local name
  for name; do
    if command -v "$name" >/dev/null; then
      echo "$name"
      return 0
    fi
  done
  return 1
}

# have PACKAGE COMMAND...: whether one of the commands exists, after installing PACKAGE by apt if necessary.
have() {
  local package=$1
  shift
  first "$@" >/dev/null && return 0
  command -v apt-get >/dev/null || return 1
  { timeout 120 apt-get update -qq && timeout 300 apt-get install -y -qq --no-install-recommends "$package"; } \
    >/dev/null 2>&1 </dev/null || true
  first "$@" >/dev/null
}

# build NAME TARGETS CMAKE_OPTIONS...: into build/NAME.
build() {
  local folder=build/$1 targets=$2
  shift 2
  cmake -S "$source" -B "$folder" -G Ninja --log-level=WARNING -DSPARSE_DEPLOY_SELFTEST=ON "$@" </dev/null >/dev/null
  # shellcheck disable=SC2086  # several targets
  ninja -C "$folder" --quiet $targets </dev/null
}

arm() {
  if ! have g++-aarch64-linux-gnu aarch64-linux-gnu-g++ || ! have qemu-user qemu-aarch64 qemu-aarch64-static; then
    echo "check_kernels: arm skipped: g++-aarch64-linux-gnu or qemu-user is not available"
    return 0
  fi
  local emulator
  emulator=$(first qemu-aarch64 qemu-aarch64-static)
  build arm "kernels_selftest sparse_deploy_onnxruntime" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
  "$emulator" -L /usr/aarch64-linux-gnu build/arm/kernels_selftest
  # Armv8.0 has no dot product.
  "$emulator" -cpu cortex-a72 -L /usr/aarch64-linux-gnu build/arm/kernels_selftest threads
}

threads() {
  build threads kernels_selftest -DSPARSE_DEPLOY_SANITIZE=thread -DSPARSE_DEPLOY_PORTABLE=ON
  TSAN_OPTIONS=halt_on_error=1 build/threads/kernels_selftest threads
}

evex() {
  if ! grep -qw avx512_vnni /proc/cpuinfo; then
    echo "check_kernels: evex skipped: this CPU has no AVX-512 VNNI"
    return 0
  fi
  build evex kernels_selftest -DSPARSE_DEPLOY_EVEX=ON
  build/evex/kernels_selftest avx2_vnni
}

clang() {
  if ! have clang-14 clang++ clang++-14 clang++-15 clang++-16 clang++-17 clang++-18 clang++-19; then
    echo "check_kernels: clang skipped: Clang is not available"
    return 0
  fi
  build clang "kernels_selftest sparse_deploy_onnxruntime" \
    -DCMAKE_CXX_COMPILER="$(first clang++ clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14)"
  build/clang/kernels_selftest
}

(($#)) || set -- arm threads evex clang
for check; do
  case $check in
    arm | threads | evex | clang)
      echo "-- $check"
      "$check"
      ;;
    *)
      echo "check_kernels: expected arm, threads, evex or clang, found $check" >&2
      exit 2
      ;;
  esac
done
