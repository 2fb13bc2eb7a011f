"""Text in columns, for people."""

from __future__ import annotations

from collections.abc import Sequence

from puller.cli.output.streams.console import printable

_GAP = "  "


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns as wide as necessary; a column whose head begins with ``>`` is right-aligned."""
    cells = [[head.removeprefix(">") for head in heads], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        _GAP.join(
            cell.rjust(width) if head.startswith(">") else cell.ljust(width)
            for head, cell, width in zip(heads, row, widths, strict=True)
        )
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a line ``name  value`` for each item."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}{_GAP}{printable(value)}".rstrip() for name, value in pairs)
