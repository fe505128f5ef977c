# SPDX-License-Identifier: Apache-2.0
"""x."""

from typing import Any


def demo_rows(split: str) -> list[dict[str, Any]]:
    raise KeyError(split)
