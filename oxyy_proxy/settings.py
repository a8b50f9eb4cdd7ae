"""Environment and flags -> one frozen record. A flag wins over the environment, the environment over the default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from oxyy_proxy.errors import StartupError


class Settings(BaseModel):
    """What `serve` runs with. Environment: the field's name in capitals behind `OXYY_`."""

    model_config = ConfigDict(frozen=True)

    upstream_url: str = "https://api.oxyy.ai/v1"
    policies: Path = Path("policies")
    ledger: str = "sqlite:///oxyy-ledger.db"
    listen: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:9090"
    durability: Literal["process", "power"] = "process"
    max_in_flight: Annotated[int, Field(gt=0, le=1_000_000)] = 8192
    log_format: Literal["json", "console"] = "json"
    api_key: SecretStr | None = None
    api_key_file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _over_the_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        environment = {name.upper(): value for name, value in os.environ.items()}
        names = {name: f"OXYY_{name.upper()}" for name in cls.model_fields}
        return {name: environment[key] for name, key in names.items() if key in environment} | given

    def org_key(self) -> str:
        """The organisation's key, from `OXYY_API_KEY` or the file that `OXYY_API_KEY_FILE` names; never a flag.
        Raises StartupError."""
        key = self.api_key.get_secret_value().strip() if self.api_key else ""
        if not key and self.api_key_file:
            try:
                key = self.api_key_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise StartupError(f"OXYY_API_KEY_FILE {self.api_key_file} cannot be read: {error}") from None
        if not key:
            raise StartupError(
                "no organisation key: set OXYY_API_KEY or OXYY_API_KEY_FILE ('make run' tries the proxy without one)"
            )
        if not key.isprintable() or not key.isascii():
            raise StartupError("the organisation key holds characters that no key has; is the right file named?")
        return key


def read_settings(**flags: Any) -> Settings:
    """The settings with those flags that were given (not None) on top. Raises StartupError."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        name = str(problem["loc"][0])
        raise StartupError(f"--{name.replace('_', '-')} / OXYY_{name.upper()}: {problem['msg']}") from None


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPv6]:PORT` in parts. Raises StartupError."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise StartupError(f"{text!r} is not an address; use HOST:PORT, such as 127.0.0.1:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)
