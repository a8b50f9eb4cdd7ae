"""`oxyy-proxy check`: is this policy folder valid, does this ledger hold its promises?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from oxyy_proxy.cli.output import Format, print_json


def check(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Policy folder.", show_default="policies")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help="Check a ledger's invariants instead, such as sqlite:///oxyy-ledger.db.")
    ] = None,
    format: Annotated[Format, typer.Option(help="text for people, json for scripts.")] = Format.text,
) -> None:
    """Check a policy folder, or with --ledger a ledger. Exit code 1 if something is wrong.

    Examples: oxyy-proxy check policies | oxyy-proxy check --ledger sqlite:///oxyy-ledger.db --format json
    """
    if ledger is not None:
        found = _ledger(ledger)
        lines = _ledger_lines(found)
    else:
        found = _policies(folder or Path("policies"))
        lines = _policy_lines(found)
    if format is Format.json:
        print_json(found)
    else:
        typer.echo("\n".join(lines))
    if not found["ok"]:
        raise typer.Exit(1)


def _policies(folder: Path) -> dict[str, Any]:
    """`{"ok", "errors": [{"file", "line", "column", "message"}], "warnings": […]}`."""
    import time
    from dataclasses import asdict

    from oxyy_proxy.policyfiles import PolicyInvalid, load

    try:
        loaded = load(folder, time.time())
    except PolicyInvalid as invalid:
        errors, warnings = invalid.errors, invalid.warnings
    else:
        errors, warnings = (), loaded.warnings
    return {
        "ok": not errors,
        "errors": [asdict(error) for error in errors],
        "warnings": [asdict(warning) for warning in warnings],
    }


def _policy_lines(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{kind}: {f['file']}:{f['line']}:{f['column']}: {f['message']}"
        for kind in ("error", "warning")
        for f in found[kind + "s"]
    ]
    verdict = "ok" if found["ok"] else "not valid"
    return [*lines, f"{verdict}: {len(found['errors'])} errors, {len(found['warnings'])} warnings"]


def _ledger(url: str) -> dict[str, Any]:
    """`{"ok", "errors": [text], "requests", "unresolved", "open", "overruns"}`."""
    import asyncio

    from oxyy_proxy.ledger.sqlite_reads import verify

    verdict = asyncio.run(verify(url))
    return {
        "ok": not verdict.broken,
        "errors": list(verdict.broken),
        "requests": verdict.requests,
        "unresolved": verdict.unresolved,
        "open": verdict.open,
        "overruns": verdict.overruns,
    }


def _ledger_lines(found: dict[str, Any]) -> list[str]:
    return [
        *(f"error: {error}" for error in found["errors"]),
        f"{'ok' if found['ok'] else 'broken'}: {found['requests']} requests, {found['open']} open, "
        f"{found['unresolved']} unresolved, {found['overruns']} overruns",
    ]
