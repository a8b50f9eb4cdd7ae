"""`oxyy-proxy serve`: run the proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    upstream: Annotated[
        str | None,
        typer.Option(
            help="Base URL of the upstream.", envvar="OXYY_UPSTREAM_URL", show_default="https://api.oxyy.ai/v1"
        ),
    ] = None,
    policies: Annotated[
        Path | None, typer.Option(help="Policy folder.", envvar="OXYY_POLICIES", show_default="policies")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option(help="Ledger URL.", envvar="OXYY_LEDGER", show_default="sqlite:///oxyy-ledger.db")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Public address.", envvar="OXYY_LISTEN", show_default="127.0.0.1:8080")
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(
            help="Admin address (/metrics, /healthz, /readyz).", envvar="OXYY_ADMIN", show_default="127.0.0.1:9090"
        ),
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(
            help="process: survives a crash; power: survives loss of power.",
            envvar="OXYY_DURABILITY",
            show_default="process",
        ),
    ] = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            help="Requests that are served at a time; no team takes more than three quarters.",
            envvar="OXYY_MAX_IN_FLIGHT",
            show_default="8192",
        ),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="json or console.", envvar="OXYY_LOG_FORMAT", show_default="json")
    ] = None,
) -> None:
    """Run the proxy. The organisation's key comes from OXYY_API_KEY or OXYY_API_KEY_FILE, never from a flag.

    Example: OXYY_API_KEY=... oxyy-proxy serve --policies ./policies --listen 0.0.0.0:8080
    """
    import gc

    gc.disable()  # until it listens: hardly anything of what is imported now goes away again

    from oxyy_proxy import app
    from oxyy_proxy.settings import read_settings

    app.serve(
        read_settings(
            upstream_url=upstream,
            policies=policies,
            ledger=ledger,
            listen=listen,
            admin=admin,
            durability=durability,
            max_in_flight=max_in_flight,
            log_format=log_format,
        )
    )
