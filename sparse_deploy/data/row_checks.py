# SPDX-License-Identifier: Apache-2.0
"""Checks of one value of one row, for every reader and every task."""

from typing import Any

from sparse_deploy.data.problems import RowProblem

Row = dict[str, Any]
# What stands where bytes were no UTF-8.
REPLACEMENT = "\ufffd"


def check_text(row: object, column: str) -> str:
    """The text of a column.

    Raises:
        RowProblem: there is none.
    """
    if not isinstance(row, dict) or column not in row:
        found = f"the columns {[*row]}" if isinstance(row, dict) else quote(row)
        raise RowProblem("missing column", f"expected the column {column}, found {found}")
    value = row[column]
    if value is None:
        raise RowProblem("missing value", f"{column}: expected text, found {quote(value)}")
    if not isinstance(value, str):
        raise RowProblem("no text", f"{column}: expected text, found {quote(value)}")
    if not value.strip():
        raise RowProblem("empty text", f"{column}: the text is empty; remove the row or give it text")
    if REPLACEMENT in value:
        raise RowProblem("encoding", f"{column}: expected UTF-8, found other bytes in {quote(value)}; convert the file")
    return value


def quote(value: object) -> str:
    """A value for a message, never at length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
