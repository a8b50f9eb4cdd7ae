"""How commands print: tables in colour on a terminal, plain text in a pipe, JSON and CSV for scripts."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from enum import StrEnum

import typer


class Format(StrEnum):
    """Output of commands that say something about a state."""

    text = "text"
    json = "json"


class TableFormat(StrEnum):
    """Output of commands that list rows."""

    table = "table"
    csv = "csv"
    json = "json"


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def print_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, left: int) -> None:
    """`left`: how many columns hold text; the others are figures, and right-aligned."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # as it is: a tag of a request is no markup
    # In a pipe nothing is cut to the width of a terminal that is not there.
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    console.print(table)
