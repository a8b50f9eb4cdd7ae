"""`oxyy-proxy simulate`: a fake of the oxyy API, to try the proxy without a key and to rehearse an outage."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from oxyy_proxy.simulator import Simulator

BANNER = """\
oxyy simulator: nothing here is real. No model is called and nobody is charged.

  listens on   {origin}   (base_url={origin}/v1)
  key          {key}
  models       {models}
  its bill     curl {origin}/-/bill
  its videos   curl {origin}/-/jobs
  an outage    curl -X PUT {origin}/-/faults -d '{{"fault": "status", "status": 503, "model": "{model}"}}'
  back again   curl -X DELETE {origin}/-/faults

Ctrl-C stops it."""


def simulate(
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 picks a free one.")] = "127.0.0.1:8081",
    pace_ms: Annotated[float, typer.Option(min=0, help="Milliseconds between the events of a stream.")] = 15,
    job_s: Annotated[float, typer.Option(min=0, help="Seconds that a video job takes.")] = 2,
    prices: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSON file: model -> unit -> USD.")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="A fault from the start, repeatable: NAME[:MODEL], STATUS[:MODEL] or JSON.")
    ] = None,
) -> None:
    """Run a fake of the oxyy API, with faults on demand and a bill of its own.

    Any key is accepted, unless the environment variable OXYY_SIMULATOR_KEY is set: then only that one.

    \b
    Examples:
      oxyy-proxy simulate
      oxyy-proxy simulate --listen 127.0.0.1:9000 --pace-ms 50
      oxyy-proxy simulate --fault 503:gpt-5 --fault hang_before_headers
      oxyy-proxy simulate --fault '{"fault": "reset_mid_body", "times": 3}'
    """
    import asyncio

    import uvloop

    from oxyy_proxy.simulator import Simulator

    host, port = _address(listen)
    try:
        key = os.environ.get("OXYY_SIMULATOR_KEY") or None
        sim = Simulator(_price_list(prices), key, pace_ms, received_kept=0, job_s=job_s)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--prices") from None
    faults = [fault_of(text) for text in fault or []]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(sim, host, port, faults))


async def _run(sim: Simulator, host: str, port: int, faults: list[dict[str, Any]]) -> None:
    """Serves until SIGINT or SIGTERM."""
    import asyncio
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await sim.start(host, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        typer.echo(f"simulate: cannot listen on {host}:{port}: {reason}. Choose another --listen.", err=True)
        raise typer.Exit(3) from None
    for one in faults:
        sim.faults.add(one)
    key = "only the one in OXYY_SIMULATOR_KEY" if os.environ.get("OXYY_SIMULATOR_KEY") else "any"
    names = list(sim.models)
    model = names[0] if names else "gpt-5"
    typer.echo(BANNER.format(origin=sim.origin, key=key, models=", ".join(names), model=model))
    await stop.wait()
    await sim.stop()


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(f"{listen!r} is not HOST:PORT, such as 127.0.0.1:8081", param_hint="--listen")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _price_list(path: Path | None) -> dict[str, dict[str, object]] | None:
    if path is None:
        return None
    try:
        prices = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(prices, dict) or not all(isinstance(units, dict) for units in prices.values()):
        raise ValueError(f'{path}: must be an object such as {{"gpt-5": {{"input": 1.25, "output": 10}}}}')
    return prices


def fault_of(text: str) -> dict[str, Any]:
    """The fault in its long form, checked. Raises BadParameter."""
    from oxyy_proxy.simulator import FaultError, parse_fault

    try:
        written = json.loads(text) if text.lstrip().startswith("{") else _short_form(text)
        parse_fault(written)
    except FaultError as error:
        raise typer.BadParameter(str(error), param_hint="--fault") from None
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--fault") from None
    assert isinstance(written, dict)
    return written


def _short_form(text: str) -> dict[str, Any]:
    name, _, model = text.partition(":")
    written: dict[str, Any] = {"fault": "status", "status": int(name)} if name.isdecimal() else {"fault": name}
    return {**written, "model": model} if model else written
