"""The command line: `oxyy-proxy COMMAND`. Exit codes: 0 done, 1 a check failed, 2 usage, 3 could not start."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from oxyy_proxy import __version__
from oxyy_proxy.errors import StartupError

COMMANDS = ("serve", "demo", "simulate", "rehearse", "check", "usage", "keys")
"""Each is in the module of `cli` that is called so."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"oxyy-proxy {__version__}")
        raise typer.Exit


def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def command_line(words: Sequence[str] = ()) -> typer.Typer:
    """All commands; where the first of `words` is one of them that one alone, as the others would be made for
    nothing."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="A reverse proxy for the oxyy API: team keys, exact budgets, failover, and a ledger of every nano-dollar.",
    )
    app.callback()(options)
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        module = import_module(f"oxyy_proxy.cli.{name}")
        if name == "keys":
            app.add_typer(module.keys_app, name=name)
        else:
            app.command()(getattr(module, name))
    return app


def main() -> None:
    """Run a command; a StartupError is one line on stderr and exit code 3."""
    try:
        command_line(sys.argv[1:])(prog_name="oxyy-proxy")
    except StartupError as error:
        print(f"oxyy-proxy: {error}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
