# SPDX-License-Identifier: Apache-2.0
"""Problems of rows of a data set: counted by kind, listed by row number, and refused or skipped."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from sparse_deploy.errors import DataError

Policy = Literal["error", "skip"]
_NAMED_ROWS = 5


class RowProblem(Exception):  # noqa: N818 - an error only under the policy `error`
    """A row is unusable.

    Attributes:
        kind: kind of problem, such as ``empty text``.
        detail: the expected value and the value found in this row.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


@dataclass
class Problems:
    """The unusable rows of one split.

    Attributes:
        source: file, folder or hub name, for messages.
        policy: ``error`` refuses the split at its first bad row, ``skip`` skips bad rows.
        remedy: the advice in the error.
        counts: skipped rows by kind.
        rows: the first row numbers of each kind, counted from 1.
    """

    source: str
    policy: Policy = "error"
    remedy: str = "repair the row, or skip such rows with data.on_problem: skip"
    counts: Counter[str] = field(default_factory=Counter)
    rows: dict[str, list[int]] = field(default_factory=dict)

    def add(self, number: int, problem: RowProblem) -> None:
        """Refuse the split, or count the row.

        Args:
            number: number of the row, from 1.
            problem: its problem.

        Raises:
            DataError: the policy is ``error``.
        """
        if self.policy == "error":
            raise DataError(f"{self.source}, row {number}: {problem.detail}; {self.remedy}") from problem
        self.counts[problem.kind] += 1
        self.note(problem.kind, number)

    def note(self, kind: str, number: int) -> None:
        """Count a row of a kind and store its number, for :meth:`summary`."""
        named = self.rows.setdefault(kind, [])
        if len(named) < _NAMED_ROWS:
            named.append(number)

    @property
    def total(self) -> int:
        """Number of skipped rows."""
        return sum(self.counts.values())

    def summary(self) -> list[str]:
        """One line per kind of problem: the number of rows and the first row numbers."""
        lines = []
        for kind, count in self.counts.items():
            numbers = ", ".join(str(number) for number in self.rows[kind])
            more = ", ..." if count > len(self.rows[kind]) else ""
            lines.append(f"{self.source}: {count} row{'' if count == 1 else 's'} skipped, {kind} (row {numbers}{more})")
        return lines
