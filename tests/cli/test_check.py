"""`oxyy-proxy check`, of a policy folder and of a ledger."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from oxyy_proxy.__main__ import command_line
from oxyy_proxy.errors import StartupError
from oxyy_proxy.ledger.sqlite_open import open_ledger
from tests.ledger.making import answered, limit, opening, unresolved
from tests.rig import GATEWAY, MODELS, team_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid policy folder."""
    policies = tmp_path / "policies"
    (policies / "teams").mkdir(parents=True)
    (policies / "gateway.yaml").write_text(GATEWAY)
    (policies / "models.yaml").write_text(MODELS.replace("  unpriced: {endpoints: [chat]}\n", ""))
    (policies / "teams/search.yaml").write_text(team_file())
    return policies


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    """A closed ledger with three requests, one of which was left open."""
    file = tmp_path / "ledger.db"
    ledger = open_ledger(f"sqlite:///{file}", "process")
    settled, lost, left_open = (opening([limit(cap=1000)]) for _ in range(3))
    for each in (settled, lost, left_open):
        await ledger.open(each)
    await ledger.settle(answered(settled, 150))
    await ledger.settle(unresolved(lost))
    await ledger.close()
    return file


def run(*args: str) -> Result:
    return CliRunner().invoke(command_line(), ["check", *args])


def spoil(folder: Path) -> None:
    """Two errors in one file, one in another, and a warning."""
    (folder / "gateway.yaml").write_text("version: 1\nlimits:\n  - {meter: usd, per: year, cap: 10}\ncolour: red\n")
    (folder / "teams/search.yaml").write_text(
        team_file(allow='"gpt-5", "no-such-model"', limits="{meter: usd, cap: 1}")
    )


class TestPolicies:
    def test_a_valid_folder_is_ok(self, folder: Path) -> None:
        result = run(str(folder))
        assert (result.exit_code, result.stdout) == (0, "ok: 0 errors, 0 warnings\n")

    def test_a_valid_folder_as_json(self, folder: Path) -> None:
        result = run(str(folder), "--format", "json")
        assert (result.exit_code, json.loads(result.stdout)) == (0, {"ok": True, "errors": [], "warnings": []})

    def test_the_folder_is_policies_unless_it_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)
        assert run().exit_code == 0
        spoil(folder)
        assert run().exit_code == 1

    def test_every_error_is_named_with_file_line_and_column(self, folder: Path) -> None:
        spoil(folder)
        result = run(str(folder))
        assert result.exit_code == 1
        *findings, verdict = result.stdout.splitlines()
        places = [line.split(": ", 2)[:2] for line in findings]
        assert places == [
            ["error", "gateway.yaml:3:23"],
            ["error", "gateway.yaml:4:1"],
            ["error", "teams/search.yaml:7:10"],
            ["warning", "teams/search.yaml:6:27"],
        ]
        assert "minute, hour, day, month" in findings[0]
        assert "no-such-model" in findings[3]
        assert verdict == "not valid: 3 errors, 1 warnings"

    def test_json_says_the_same_as_the_text(self, folder: Path) -> None:
        spoil(folder)
        result = run(str(folder), "--format", "json")
        assert result.exit_code == 1
        found = json.loads(result.stdout)
        assert found.keys() == {"ok", "errors", "warnings"}
        assert found["ok"] is False
        assert all(each.keys() == {"file", "line", "column", "message"} for each in found["errors"] + found["warnings"])
        assert [
            f"{kind}: {each['file']}:{each['line']}:{each['column']}: {each['message']}"
            for kind in ("error", "warning")
            for each in found[kind + "s"]
        ] == run(str(folder)).stdout.splitlines()[:-1]

    def test_a_warning_alone_is_no_failure(self, folder: Path) -> None:
        (folder / "teams/search.yaml").write_text(team_file(allow='"gpt-5", "no-such-*"'))
        result = run(str(folder))
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1] == "ok: 0 errors, 1 warnings"

    def test_a_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        result = run(str(tmp_path / "none"))
        assert result.exit_code == 1 or isinstance(result.exception, StartupError)
        assert "none" in result.output + str(result.exception)

    def test_the_example_of_this_repository_is_ok(self) -> None:
        result = run(str(Path(__file__).parents[2] / "policies"))
        assert result.exit_code == 0, result.output


class TestLedger:
    def test_a_ledger_that_keeps_its_promises_is_ok(self, ledger: Path) -> None:
        result = run("--ledger", f"sqlite:///{ledger}")
        assert (result.exit_code, result.stdout) == (0, "ok: 3 requests, 1 open, 1 unresolved, 1 overruns\n")

    def test_a_ledger_as_json(self, ledger: Path) -> None:
        result = run("--ledger", f"sqlite:///{ledger}", "--format", "json")
        assert result.exit_code == 0
        assert json.loads(result.stdout) == {
            "ok": True,
            "errors": [],
            "requests": 3,
            "unresolved": 1,
            "open": 1,
            "overruns": 1,
        }

    def test_a_broken_promise_is_named_and_exits_1(self, ledger: Path) -> None:
        db = sqlite3.connect(ledger, isolation_level=None)
        db.execute("UPDATE counters SET spent = 151")
        db.close()
        result = run("--ledger", f"sqlite:///{ledger}")
        assert result.exit_code == 1
        error, verdict = result.stdout.splitlines()
        assert error.startswith("error: held and spent of each counter equal what its requests have on it: search usd")
        assert "spent 151, rows say 150" in error
        assert verdict == "broken: 3 requests, 1 open, 1 unresolved, 1 overruns"
        found = json.loads(run("--ledger", f"sqlite:///{ledger}", "--format", "json").stdout)
        assert (found["ok"], found["errors"]) == (False, [error.removeprefix("error: ")])

    def test_a_ledger_is_checked_instead_of_the_folder(self, ledger: Path, folder: Path) -> None:
        spoil(folder)
        assert run(str(folder), "--ledger", f"sqlite:///{ledger}").exit_code == 0

    def test_a_missing_ledger_cannot_be_checked(self, tmp_path: Path) -> None:
        result = run("--ledger", f"sqlite:///{tmp_path}/no.db")
        assert isinstance(result.exception, StartupError)
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_ledger_is_one_line_and_exit_code_3(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "oxyy_proxy", "check", "--ledger", f"sqlite:///{tmp_path}/no.db"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stdout) == (3, "")
        assert len(result.stderr.splitlines()) == 1


def test_an_unknown_format_is_wrong_use() -> None:
    assert run("--format", "xml").exit_code == 2


def test_help_shows_an_example() -> None:
    assert "oxyy-proxy check --ledger sqlite:///oxyy-ledger.db" in " ".join(run("--help").output.split())
