#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compare csrc/onnxruntime/ort_abi.h with ONNX Runtime's official header: every structure, every position in the
# function table, every type. The header comes from Debian's newest libonnxruntime-dev, verified by apt's signature and
# not installed, and is cached in ~/.cache/sparse-deploy/ort-header; ORT_INCLUDE=/path/to/include names another header.
# Without a header the check fails. SPARSE_DEPLOY_SKIP_ORT_HEADER=1 skips the check on a machine without network;
# docs/architecture.md explains why the header is not part of this repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source=${1:-sparse_deploy/kernels/csrc/onnxruntime/abi_check.cc}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sparse-deploy/ort-header
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=http://deb.debian.org/debian

missing() {
  if [[ -n ${SPARSE_DEPLOY_SKIP_ORT_HEADER:-} ]]; then
    echo "check_ort_abi: skipped because of SPARSE_DEPLOY_SKIP_ORT_HEADER: $1"
    exit 0
  fi
  echo "check_ort_abi: nothing was compared: $1. Name a folder that has onnxruntime_c_api.h in ORT_INCLUDE, or set" \
    "SPARSE_DEPLOY_SKIP_ORT_HEADER=1 to leave this check out" >&2
  exit 2
}

fetch() {
  local work options
  work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  mkdir -p "$work"/{state/lists/partial,cache/archives/partial}
  touch "$work/status"
  # A private apt configuration: lists, state and sources, so that nothing on the machine changes.
  options=(-qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State="$work/state"
    -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o APT::Architecture=amd64
    -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=0 -o Acquire::http::Timeout=15)
  for suite in sid trixie; do
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
    if apt-get "${options[@]}" update 2>/dev/null && (cd "$work" && apt-get "${options[@]}" download libonnxruntime-dev 2>/dev/null); then
      dpkg-deb --extract "$work"/libonnxruntime-dev_*.deb "$work/unpacked"
      mkdir -p "$cache"
      cp "$work"/unpacked/usr/include/onnxruntime/*.h "$cache/"
      return 0
    fi
  done
  return 1
}

compiler=${CXX:-c++}
command -v "$compiler" >/dev/null || missing "no C++ compiler here"
include=${ORT_INCLUDE:-$cache}
if [[ ! -f $include/onnxruntime_c_api.h ]]; then
  [[ -z ${ORT_INCLUDE:-} ]] || { echo "check_ort_abi: $ORT_INCLUDE has no onnxruntime_c_api.h" >&2; exit 2; }
  command -v apt-get >/dev/null || missing "no header in $cache, and no apt-get to fetch Debian's libonnxruntime-dev with"
  [[ -f $keyring ]] || missing "no header in $cache, and no $keyring to verify Debian's libonnxruntime-dev with"
  fetch || missing "no header in $cache, and $mirror can't be reached"
fi
# The official table marks results of functions as not to be ignored; this attribute is not part of a type.
if ! "$compiler" -std=c++17 -Wall -Wextra -Werror -Wno-ignored-attributes -fsyntax-only -isystem "$include" "$source"; then
  echo "check_ort_abi: ort_abi.h and the official header differ" >&2
  exit 1
fi
version=$(sed -n 's/^#define ORT_API_VERSION \([0-9]*\).*/\1/p' "$include/onnxruntime_c_api.h")
echo "check_ort_abi: ort_abi.h agrees with the official header of API version $version"
