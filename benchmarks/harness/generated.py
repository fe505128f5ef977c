# SPDX-License-Identifier: Apache-2.0
"""Hand-written pages with generated tables."""

from collections.abc import Mapping


def with_tables(page: str, tables: Mapping[str, str], script: str) -> str:
    """Replace the tables between their markers.

    Args:
        page: text of the page.
        tables: table text by the name in the markers, ``<!-- NAME: SCRIPT -->`` and ``<!-- end of NAME -->``.
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
