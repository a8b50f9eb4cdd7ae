"""`oxyy-proxy keys new`: a key for a team, and the line of YAML that makes it valid."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

SECRET_BYTES = 32
"""256 bits from the system's generator, 43 characters of URL-safe Base64: a plain SHA-256 of it needs no salt."""

keys_app = typer.Typer(no_args_is_help=True, help="Make keys for teams.")


class OutputFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


@keys_app.callback()
def keys() -> None:
    """Make keys for teams."""


@keys_app.command()
def new(
    id: Annotated[str, typer.Argument(help="The key's id in policies, logs and reports, such as search-prod.")],
    team: Annotated[str | None, typer.Option(help="The team; its name then begins the key, else the id does.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="DATE", help="The key's last day, such as 2027-06-30.")] = None,
    format: Annotated[OutputFormat, typer.Option(help="text for people, json for scripts.")] = OutputFormat.TEXT,
) -> None:
    """Make a new key for a team. It is shown once and stored nowhere: policies hold only its SHA-256.

    Example: oxyy-proxy keys new search-prod --team search --expires 2027-06-30
    """
    import hashlib
    import secrets

    _check_name(id, "ID")
    if team is not None:
        _check_name(team, "--team")
    if expires is not None:
        _check_day(expires)
    key = f"ok_{team or id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    if format is OutputFormat.JSON:
        typer.echo(json.dumps({"id": id, "key": key, "sha256": sha256, "expires": expires}))
    else:
        typer.echo(_text(id, team, key, sha256, expires))


def _text(id: str, team: str | None, key: str, sha256: str, expires: str | None) -> str:
    last_day = f", expires: {expires}" if expires else ""
    return (
        "The key. It is shown only now; hand it to the team over a safe channel:\n\n"
        f"  {key}\n\n"
        f"To make it valid, add this line under `keys:` in teams/{team or 'TEAM'}.yaml of your policies:\n\n"
        f'  - {{id: {_scalar(id)}, sha256: "{sha256}"{last_day}}}\n'
    )


def _scalar(id: str) -> str:
    # In quotes where YAML could take it for a number, a date or true.
    return id if id[0].isalpha() and "-" in id else f'"{id}"'


def _check_name(name: str, param: str) -> None:
    from oxyy_proxy.policyfiles.values import NAME

    if not NAME.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} is not a name of letters, digits, '.', '_' and '-', at most 64.", param_hint=param
        )


def _check_day(text: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from oxyy_proxy.policyfiles.values import Day

    try:
        TypeAdapter(Day).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(str(error.errors()[0]["ctx"]["error"]), param_hint="--expires") from None
