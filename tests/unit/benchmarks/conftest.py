# SPDX-License-Identifier: Apache-2.0
"""Adds the benchmarks' folder to the import path, because they are not part of the package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
