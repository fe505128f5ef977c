# SPDX-License-Identifier: Apache-2.0
"""Puts the folders of the benchmarks and of the tests on the path, whose parts some studies use."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("benchmarks", "tests")]
