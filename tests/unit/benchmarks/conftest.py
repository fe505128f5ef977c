# SPDX-License-Identifier: Apache-2.0
"""The benchmarks are scripts, not part of the package: their folder has to be on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
