"""`oxyy-proxy keys new`."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from oxyy_proxy.cli.keys import keys_app
from oxyy_proxy.policyfiles import load


def run(*args: str) -> str:
    result = CliRunner().invoke(keys_app, ["new", *args])
    assert result.exit_code == 0, result.output
    return result.output


def policies(tmp_path: Path, line: str) -> Path:
    (tmp_path / "teams").mkdir()
    (tmp_path / "gateway.yaml").write_text("version: 1\n")
    (tmp_path / "models.yaml").write_text("models: {gpt-5: {endpoints: [chat], price: {input: 1, output: 1}}}\n")
    (tmp_path / "teams/search.yaml").write_text(f"team: search\nkeys:\n{line}\nmodels: {{allow: [gpt-5]}}\n")
    return tmp_path


@pytest.mark.parametrize("key_id", ["search-prod", "prod", "null", "007", "2027-06-30", "1e5", "true", "a.b_c"])
def test_the_printed_line_makes_the_printed_key_valid(tmp_path: Path, key_id: str) -> None:
    output = run(key_id, "--team", "search", "--expires", "2027-06-30")
    (key,) = re.findall(r"^  (ok_search_\S{43})$", output, re.M)
    (line,) = re.findall(r"^  - \{.*\}$", output, re.M)
    policy = load(policies(tmp_path, line)).policy
    principal = policy.keys[hashlib.sha256(key.encode()).hexdigest()]
    assert (principal.team.name, principal.key.id) == ("search", key_id)
    assert principal.key.expires_at is not None
    assert "teams/search.yaml" in output


def test_json_has_the_key_its_hash_and_its_last_day() -> None:
    made = json.loads(run("search-prod", "--format", "json"))
    assert made.keys() == {"id", "key", "sha256", "expires"}
    assert made["sha256"] == hashlib.sha256(made["key"].encode()).hexdigest()
    assert re.fullmatch(r"ok_search-prod_[A-Za-z0-9_-]{43}", made["key"])
    assert (made["id"], made["expires"]) == ("search-prod", None)
    assert json.loads(run("a", "--expires", "2027-06-30", "--format", "json"))["expires"] == "2027-06-30"


def test_no_two_keys_are_the_same() -> None:
    assert len({json.loads(run("a", "--format", "json"))["key"] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["has blank"], "is not a name of"),
        (["a", "--team", "x/y"], "is not a name of"),
        (["a", "--expires", "30.06.2027"], "expected a date such as"),
        (["a", "--expires", "2027-02-30"], "expected a date such as"),
        (["a", "--format", "xml"], "xml"),
        ([], "Missing argument"),
    ],
)
def test_wrong_use_is_explained_and_exits_2(args: list[str], said: str) -> None:
    result = CliRunner().invoke(keys_app, ["new", *args])
    assert result.exit_code == 2
    assert said in result.output


def test_help_shows_an_example() -> None:
    assert "oxyy-proxy keys new search-prod" in " ".join(run("--help").split())
