# SPDX-License-Identifier: Apache-2.0
"""Checks of one value of one row, for every reader and every task."""

import codecs
from typing import Any

from sparse_deploy.data.problems import RowProblem

Row = dict[str, Any]
# Replaces bytes that are not UTF-8: a code point that does not occur in texts, unlike U+FFFD, which SQuAD's texts
# contain.
UNDECODABLE = "\ufdd0"
# The name of the handler below, for the ``errors`` argument of readers.
MARK_UNDECODABLE = "sparse_deploy.mark_undecodable"


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return UNDECODABLE, error.end


codecs.register_error(MARK_UNDECODABLE, _mark)


def check_text(row: object, column: str) -> str:
    """The text of a column.

    Raises:
        RowProblem: the value is missing or unusable.
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
    if UNDECODABLE in value:
        shown = quote(value.replace(UNDECODABLE, "\ufffd"))
        raise RowProblem("encoding", f"{column}: expected UTF-8, found other bytes in {shown}; convert the file")
    return value


def quote(value: object) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
