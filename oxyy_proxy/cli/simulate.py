"""`oxyy-proxy simulate`: a fake of the oxyy API, to try the proxy without a key and to rehearse an outage."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from oxyy_proxy.simulator import PriceList, Simulator

BANNER = """\
oxyy simulator: nothing here is real. No model is called and nobody is charged.

  listens on   {origin}   (base_url={origin}/v1)
  key          {key}
  models       {models}
  its bill     curl {origin}/-/bill
  an outage    curl -X PUT {origin}/-/faults -d '{{"fault": "status", "status": 503, "model": "{model}"}}'
  back again   curl -X DELETE {origin}/-/faults

Ctrl-C stops it."""


def simulate(
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 picks a free one.")] = "127.0.0.1:8081",
    pace_ms: Annotated[float, typer.Option(min=0, help="Milliseconds between the events of a stream.")] = 15,
    prices: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSON file: model -> unit -> USD.")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="A fault from the start: JSON, or NAME[:MODEL], or STATUS[:MODEL].")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="OXYY_SIMULATOR_KEY", hidden=True, help="The only key accepted."),
    ] = None,
) -> None:
    """Run a fake of the oxyy API, with faults on demand and a bill of its own.

    \b
    Examples:
      oxyy-proxy simulate
      oxyy-proxy simulate --listen 127.0.0.1:9000 --pace-ms 50
      oxyy-proxy simulate --fault 503:gpt-5
      oxyy-proxy simulate --fault hang_before_headers
      oxyy-proxy simulate --fault '{"fault": "reset_mid_body", "model": "gpt-5", "times": 3}'

    Any key is accepted, unless OXYY_SIMULATOR_KEY is set: then only that one.
    """
