#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build the documentation site into build/site. A link to a missing page, file or heading ends the build with an error.
# Sphinx is installed once, into a separate environment of 120 MB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
environment=build/docs-environment
if ! cmp -s docs/requirements.txt "$environment/requirements.txt"; then
  "${PYTHON:-python3}" -m venv --clear "$environment"
  "$environment/bin/python" -m pip install --quiet --quiet --no-input --disable-pip-version-check -r docs/requirements.txt
  cp docs/requirements.txt "$environment/requirements.txt"
fi
rm -rf build/site
"$environment/bin/sphinx-build" --quiet --fail-on-warning --keep-going -b html -c docs . build/site
echo "build/site/docs/index.html"
