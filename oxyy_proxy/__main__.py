"""The command line: `oxyy-proxy COMMAND`. Exit codes: 0 done, 1 a check failed, 2 usage, 3 could not start."""

from __future__ import annotations

import sys

import typer

from oxyy_proxy import __version__
from oxyy_proxy.cli.check import check
from oxyy_proxy.cli.demo import demo
from oxyy_proxy.cli.keys import keys_app
from oxyy_proxy.cli.rehearse import rehearse
from oxyy_proxy.cli.serve import serve
from oxyy_proxy.cli.simulate import simulate
from oxyy_proxy.cli.usage import usage
from oxyy_proxy.errors import StartupError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A reverse proxy for the oxyy API: team keys, exact budgets, failover, and a ledger of every nano-dollar.",
)
app.command()(serve)
app.command()(demo)
app.command()(simulate)
app.command()(rehearse)
app.command()(check)
app.command()(usage)
app.add_typer(keys_app, name="keys")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"oxyy-proxy {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """Run a command; a StartupError is one line on stderr and exit code 3."""
    try:
        app(prog_name="oxyy-proxy")
    except StartupError as error:
        print(f"oxyy-proxy: {error}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
