# SPDX-License-Identifier: Apache-2.0
"""Reliability checks of server and artifacts: load, faults, signals, mutated files (``tests/check_reliability.py``).

The full-size models are those of the benchmarks; this module adds the benchmarks' folder to the import path.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
