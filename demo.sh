#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install into .venv, then run the demo: fine-tune, export, measure. Works offline after the installation. Writes
# runs/demo in the current folder; arguments go to `sparse-deploy demo`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bash "$root/tools/install.sh" demo </dev/null
exec "$root/.venv/bin/sparse-deploy" demo "$@"
