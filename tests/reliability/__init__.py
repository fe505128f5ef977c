# SPDX-License-Identifier: Apache-2.0
"""What the server and the artifacts survive: load, faults, signals, mutated files (``tests/check_reliability.py``).

The models at full size are those of the benchmarks, whose folder is put on the path here.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
