# SPDX-License-Identifier: Apache-2.0
"""Adds the folders of the benchmarks and of the tests to the import path; some studies use their modules."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in ("benchmarks", "tests")]
