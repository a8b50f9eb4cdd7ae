"""`oxyy-proxy usage`: what was spent, from the ledger, grouped as you like."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from oxyy_proxy.cli.output import TableFormat, print_csv, print_json, print_table

_UNITS = ("images", "video_seconds", "audio_seconds", "characters")
"""Columns that a table leaves out where they are 0 in every row: most teams have chat alone."""


def usage(
    by: Annotated[
        str, typer.Option(help="Comma-separated: team, key, cost_center, tag, endpoint, model, state, day, month.")
    ] = "team,model",
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="From this day or time on (UTC), such as 2026-11-01.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Up to but not including this day or time (UTC).")
    ] = None,
    ledger: Annotated[
        str, typer.Option(help="Ledger URL; it may be in use by a running proxy.", envvar="OXYY_LEDGER")
    ] = "sqlite:///oxyy-ledger.db",
    format: Annotated[TableFormat, typer.Option(help="table, csv or json.")] = TableFormat.table,
) -> None:
    """Show what was spent. Money is exact; `unresolved` is what calls of unknown outcome may have cost.

    Examples: oxyy-proxy usage --by team,model --since 2026-11-01 | oxyy-proxy usage --by month,cost_center --format csv
    """
    import asyncio

    from oxyy_proxy.ledger.sqlite_reads import DIMENSIONS, read_spend
    from oxyy_proxy.rules.price import usd

    names = [name.strip() for name in by.split(",") if name.strip()]
    for name in names:
        if name not in DIMENSIONS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(DIMENSIONS)}.", param_hint="--by")
    rows = asyncio.run(read_spend(ledger, names, _when(since, "--since"), _when(until, "--until")))
    units = [unit for unit in _UNITS if format is not TableFormat.table or any(getattr(row, unit) for row in rows)]
    counts = ["requests", "input_tokens", "cached_input_tokens", "output_tokens", *units]
    columns = [*names, *counts, "cost_usd", "unresolved_usd"]
    cells = [
        [*row.group, *[_plain(getattr(row, count)) for count in counts], usd(row.cost_nusd), usd(row.unresolved_nusd)]
        for row in rows
    ]
    if format is TableFormat.json:
        print_json([dict(zip(columns, row, strict=True)) for row in cells])
    elif format is TableFormat.csv:
        print_csv(columns, cells)
    else:
        total = ["total", *[""] * (len(names) - 1)][: len(names)]
        sums = [_plain(sum(getattr(row, count) for row in rows)) for count in counts]
        money = [usd(sum(row.cost_nusd for row in rows)), usd(sum(row.unresolved_nusd for row in rows))]
        print_table(columns, [*cells, [*total, *sums, *money]], left=len(names))


def _plain(count: float) -> float:
    """Seconds to the millisecond, without decimals where they are whole."""
    return int(count) if count == int(count) else round(count, 3)


def _when(text: str | None, option: str) -> datetime | None:
    """A day or an instant, UTC where it names no zone."""
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a day or time such as 2026-11-01 or 2026-11-01T12:00.", param_hint=option
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
