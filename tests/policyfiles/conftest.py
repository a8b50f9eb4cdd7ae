"""A policy folder that is valid, to change one file of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from oxyy_proxy.policyfiles import PolicyInvalid, load

Write = Callable[[Mapping[str, str | None]], Path]


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


VALID: Mapping[str, str] = {
    "gateway.yaml": "version: 1\n",
    "models.yaml": (
        "version: 1\n"
        "models:\n"
        "  gpt-5: {endpoints: [chat], price: {input: 1.25, output: 10}}\n"
        "  gpt-5-mini: {endpoints: [chat], price: {input: 0.25, output: 2}}\n"
        "  ada: {endpoints: [embeddings], price: {input: 0.1}}\n"
        "aliases: {fast: gpt-5-mini}\n"
    ),
    "teams/search.yaml": (
        f'version: 1\nteam: search\nkeys:\n  - {{id: prod, sha256: "{sha("prod")}"}}\nmodels: {{allow: [gpt-5]}}\n'
    ),
}

MODELS, TEAM = VALID["models.yaml"], VALID["teams/search.yaml"]


def errors(folder: Path) -> list[str]:
    """Every error of a folder that does not load, as it is printed."""
    with pytest.raises(PolicyInvalid) as caught:
        load(folder)
    return [str(error) for error in caught.value.errors]


def warnings(folder: Path) -> list[str]:
    """Every warning of a folder that loads."""
    return [str(warning) for warning in load(folder).warnings]


def limits(*limits: str) -> str:
    """A team with these limits."""
    return TEAM + "limits:\n" + "".join(f"  - {{{limit}}}\n" for limit in limits)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `VALID`, changed by what is given (None: leave the file out), and returns the folder."""

    def write(changes: Mapping[str, str | None]) -> Path:
        folder = tmp_path / "policies"
        for name, text in {**VALID, **changes}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                (folder / name).write_text(text, encoding="utf-8")
        return folder

    return write
