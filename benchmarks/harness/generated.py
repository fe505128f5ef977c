# SPDX-License-Identifier: Apache-2.0
"""Pages that people write around tables that a script writes."""

from collections.abc import Mapping


def with_tables(page: str, tables: Mapping[str, str], script: str) -> str:
    """The page with the text between the markers of each table replaced.

    Args:
        page: its text.
        tables: by the name in their markers, ``<!-- NAME: SCRIPT -->`` and ``<!-- end of NAME -->``.
        script: file name of the script that writes them.

    Raises:
        SystemExit: the page lacks a marker.
    """
    for name, table in tables.items():
        start, end = f"<!-- {name}: {script} -->\n", f"<!-- end of {name} -->"
        head, found, rest = page.partition(start)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise SystemExit(f"{script}: expected {start.strip()} and {end} in the page that it writes to")
        page = f"{head}{start}{table}\n{end}{tail}"
    return page
