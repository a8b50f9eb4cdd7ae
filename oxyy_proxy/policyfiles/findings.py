"""What is wrong with a policy folder, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oxyy_proxy.errors import StartupError
from oxyy_proxy.rules.types import Policy


@dataclass(frozen=True, slots=True)
class Finding:
    """One error or warning. `file` is relative to the policy folder; `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid folder, and what its owner should know all the same."""

    policy: Policy
    warnings: tuple[Finding, ...]


class PolicyInvalid(StartupError):
    """The folder cannot be used. `errors` are all errors of all files; the text is one line, for a start-up message."""

    def __init__(self, folder: Path, errors: tuple[Finding, ...], warnings: tuple[Finding, ...]) -> None:
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        super().__init__(f"{errors[0]}{more}; run 'oxyy-proxy check {folder}'")
        self.errors = errors
        self.warnings = warnings
