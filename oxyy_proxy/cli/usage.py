"""`oxyy-proxy usage`: what was spent, from the ledger, grouped as you like."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from oxyy_proxy.cli.output import TableFormat, print_csv, print_json, print_table


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
    columns = [*names, "requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd", "unresolved_usd"]
    cells = [[*row.group, *row[1:5], usd(row.cost_nusd), usd(row.unresolved_nusd)] for row in rows]
    if format is TableFormat.json:
        print_json([dict(zip(columns, row, strict=True)) for row in cells])
    elif format is TableFormat.csv:
        print_csv(columns, cells)
    else:
        total = ["total", *[""] * (len(names) - 1)][: len(names)]
        sums = [sum(row[at] for row in rows) for at in range(1, 7)]  # type: ignore[misc]
        cells.append([*total, *sums[:4], usd(sums[4]), usd(sums[5])])
        print_table(columns, cells, left=len(names))


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
