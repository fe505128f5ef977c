#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build the images of the Dockerfile without a Docker engine, start them, and check them; as root on Debian.
#   tools/build_images.sh                        serve, checked with a deployment of runs/
#   tools/build_images.sh -d DEPLOYMENT serve serve-openvino toolchain
# buildah (chroot isolation, vfs) and mmdebstrap are installed from Debian if missing. The base image is a new minimal
# bookworm, or the existing tar file BASE_TAR. pip inside the build uses the indexes and certificates of this machine's
# pip configuration. All files are in WORK (default: a new folder in /tmp), which is removed at the end unless KEEP=1.
# The exit code is 1 if a check fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

deployment=
while getopts d: option; do
  case $option in
    d) deployment=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
targets=("${@:-serve}")
if [[ -z $deployment ]]; then
  deployment=$(find runs -maxdepth 3 -path '*deployment/manifest.json' -printf '%h\n' 2>/dev/null | sort | head -n 1)
fi
if [[ -z $deployment || ! -f $deployment/manifest.json ]]; then
  echo "build_images: expected a deployment folder, found '$deployment'; make one with ./demo.sh, or name it with -d" >&2
  exit 2
fi
if ((EUID != 0)); then
  echo "build_images: expected root, for chroot and mounts; run it with sudo" >&2
  exit 2
fi

if ! command -v buildah >/dev/null || ! command -v mmdebstrap >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends buildah mmdebstrap >/dev/null
fi

work=${WORK:-$(mktemp -d /tmp/sparse-deploy-images.XXXXXX)}
mkdir -p "$work/tmp" "$work/empty"
trap '[[ -n ${KEEP:-} ]] || rm -rf "$work"' EXIT
# Separate storage: the container configuration of the machine is neither read nor written.
cat >"$work/storage.conf" <<END
[storage]
driver = "vfs"
graphroot = "$work/storage"
runroot = "$work/run"
END
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/policy.json"
: >"$work/registries.conf"
export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_REGISTRIES_CONF=$work/registries.conf
export TMPDIR=$work/tmp BUILDAH_ISOLATION=chroot

# The settings of pip on this machine as one file, and the folders and certificates in them.
mounts=(--volume "$work/pip.conf:/etc/pip.conf:ro")
while IFS= read -r path; do
  mounts+=(--volume "$path:$path:ro")
done < <(python3 tools/pip_settings.py "$work/pip.conf")

if ! buildah images --quiet localhost/base:1 >/dev/null 2>&1; then
  base=${BASE_TAR:-$work/base.tar}
  if [[ ! -f $base ]]; then
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$base"
  fi
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$base" / >/dev/null
  buildah commit --quiet --format docker "$container" localhost/base:1 >/dev/null
  buildah rm "$container" >/dev/null
fi

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' sparse_deploy/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
failed=0
for target in "${targets[@]}"; do
  echo "== $target" >&2
  SECONDS=0
  if ! buildah bud --pull=never --format docker --target "$target" --tag "localhost/sparse-deploy:$target" \
    --build-arg BASE_IMAGE=localhost/base:1 --build-arg TORCH_INDEX= \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    "${mounts[@]}" . >"$work/$target.log" 2>&1; then
    tail -n 30 "$work/$target.log" >&2
    failed=1
    continue
  fi
  echo "built in $SECONDS s" >&2
  python3 tools/check_image.py "localhost/sparse-deploy:$target" --target "$target" --base localhost/base:1 \
    --deployment "$deployment" || failed=1
  # vfs stores a complete copy per layer, 2 to 12 GB per target: they are removed before the next target is built.
  [[ -n ${KEEP:-} ]] || buildah rmi "localhost/sparse-deploy:$target" >/dev/null
  buildah rm --all >/dev/null
  buildah rmi --prune --force >/dev/null
done
exit "$failed"
