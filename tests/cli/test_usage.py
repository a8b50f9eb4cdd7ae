"""`oxyy-proxy usage`, on a ledger that is in use."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from oxyy_proxy.__main__ import command_line
from oxyy_proxy.errors import StartupError
from oxyy_proxy.ledger.sqlite_open import open_ledger
from oxyy_proxy.rules.types import Usage
from tests.ledger.making import NOW, answered, opening, target, unresolved

DAY = 86_400
FIGURES = ["requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd", "unresolved_usd"]
UNITS = ["images", "video_seconds", "audio_seconds", "characters"]
ALL_FIGURES = [*FIGURES[:4], *UNITS, *FIGURES[4:]]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an open ledger with four requests."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = open_ledger(url, "process")
    for opened, end in (
        (one := opening([], now=NOW - 30 * DAY), answered(one, 1, Usage(1, 1, 0, 1))),
        (one := opening([], now=NOW, tag="[/]"), answered(one, 1_250_000, Usage(20, 2, 0, 200))),
        (one := opening([], [target(7, 1, "mini")], now=NOW, team="support"), answered(one, 2_000_000_000)),
        (one := opening([], [target(123)], now=NOW + DAY), unresolved(one)),
    ):
        await ledger.open(opened)
        await ledger.settle(end)
    yield url
    await ledger.close()


def run(*args: str) -> Result:
    return CliRunner().invoke(command_line(), ["usage", *args], env={"COLUMNS": "200"})


def lines(*args: str) -> list[list[str]]:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


# The command has an event loop of its own, so these tests run it as users do: from outside of one.
@pytest.fixture
def url(ledger: str) -> str:
    return ledger


def test_a_table_by_team_and_model_ends_with_the_total(url: str) -> None:
    assert lines("--ledger", url) == [
        ["team", "model", *FIGURES],
        ["support", "mini", "1", "3", "1", "4", "2.00", "0.00"],
        ["search", "gpt-5", "3", "21", "3", "201", "0.001250001", "0.000000123"],
        ["total", "4", "24", "4", "205", "2.001250001", "0.000000123"],
    ]


def test_the_ledger_may_be_named_by_the_environment(url: str) -> None:
    result = CliRunner().invoke(command_line(), ["usage", "--by", "team", "--format", "csv"], env={"OXYY_LEDGER": url})
    assert [row[0] for row in csv.reader(io.StringIO(result.stdout))] == ["team", "support", "search"]


def test_csv_has_exact_figures_and_no_total(url: str) -> None:
    result = run("--ledger", url, "--by", "month, cost_center", "--format", "csv")
    assert list(csv.reader(io.StringIO(result.stdout))) == [
        ["month", "cost_center", *ALL_FIGURES],
        ["2026-11", "CC-support", "1", "3", "1", "4", *"0000", "2.00", "0.00"],
        ["2026-11", "CC-search", "2", "20", "2", "200", *"0000", "0.00125", "0.000000123"],
        ["2026-10", "CC-search", "1", "1", "1", "1", *"0000", "0.000000001", "0.00"],
    ]


def test_json_has_money_as_decimal_strings(url: str) -> None:
    result = run("--ledger", url, "--by", "team", "--since", "2026-11-18", "--until", "2026-11-19", "--format", "json")
    assert json.loads(result.stdout) == [
        dict(zip(["team", *ALL_FIGURES], ["support", 1, 3, 1, 4, 0, 0, 0, 0, "2.00", "0.00"], strict=True)),
        dict(zip(["team", *ALL_FIGURES], ["search", 1, 20, 2, 200, 0, 0, 0, 0, "0.00125", "0.00"], strict=True)),
    ]


@pytest.mark.parametrize(
    ("bounds", "requests"),
    [
        ([], "4"),
        (["--since", "2026-11-18"], "3"),
        (["--since", "2026-11-18T12:00"], "3"),
        (["--since", "2026-11-18T12:00:00.001"], "1"),
        (["--since", "2026-11-18T12:00:00+01:00"], "3"),
        (["--since", "2026-11-18T12:00:00-01:00"], "1"),
        (["--until", "2026-11-18"], "1"),
        (["--until", "2026-11-18T12:00"], "1"),
        (["--until", "2026-11-18T12:00:00.001"], "3"),
        (["--since", "2026-12-01"], "0"),
    ],
)
def test_bounds_are_utc_unless_they_name_a_zone(url: str, bounds: list[str], requests: str) -> None:
    total = lines("--ledger", url, "--by", "team", *bounds)[-1]
    assert total[:2] == ["total", requests]


def test_without_dimensions_there_is_one_row_and_its_total(url: str) -> None:
    shown = lines("--ledger", url, "--by", "")
    assert shown[0] == FIGURES
    assert shown[-1] == ["4", "24", "4", "205", "2.001250001", "0.000000123"]


@pytest.fixture
async def all_kinds(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an open ledger with requests that used images, video and audio, two of each, and one of chat."""
    url = f"sqlite:///{tmp_path / 'kinds.db'}"
    ledger = open_ledger(url, "process")
    for cost, (model, usage) in enumerate(
        [
            *[("chat", Usage(1, 0, 0, 2))],
            *[("tts", Usage(audio_ms=100))] * 3,  # 0.1 + 0.1 + 0.1 is not 0.3
            *[("veo", Usage(video_ms=8_000))] * 2,
            *[("whisper", Usage(audio_ms=600))],  # 0.3 + 0.6 is not 0.9
            *[("dall-e", Usage(images=1))] * 2,
        ]
    ):
        opened = opening([], [target(model=model)])
        await ledger.open(opened)
        await ledger.settle(answered(opened, cost, usage))
    yield url
    await ledger.close()


def test_a_table_has_only_the_units_that_were_used(all_kinds: str) -> None:
    shown = lines("--ledger", all_kinds, "--by", "model")
    assert [row[:8] for row in shown] == [
        ["model", *FIGURES[:4], "images", "video_seconds", "audio_seconds"],
        ["dall-e", "2", "0", "0", "0", "2", "0", "0"],
        ["veo", "2", "0", "0", "0", "0", "16", "0"],
        ["tts", "3", "0", "0", "0", "0", "0", "0.3"],
        ["whisper", "1", "0", "0", "0", "0", "0", "0.6"],
        ["chat", "1", "1", "0", "2", "0", "0", "0"],
        ["total", "9", "1", "0", "2", "2", "16", "0.9"],
    ]
    assert shown[0][8:] == FIGURES[4:]


def test_csv_and_json_have_all_units(all_kinds: str) -> None:
    rows = list(csv.DictReader(io.StringIO(run("--ledger", all_kinds, "--by", "model", "--format", "csv").stdout)))
    assert [tuple(row[unit] for unit in UNITS) for row in rows] == [
        ("2", "0", "0", "0"), ("0", "16", "0", "0"), ("0", "0", "0.3", "0"), ("0", "0", "0.6", "0"), (*"0000",),
    ]  # fmt: skip
    found = json.loads(run("--ledger", all_kinds, "--by", "", "--format", "json").stdout)
    assert [[row[unit] for unit in UNITS] for row in found] == [[2, 16, 0.9, 0]]


def test_a_tag_is_shown_as_it_was_sent(url: str) -> None:
    assert ["[/]", "1"] in [line[:2] for line in lines("--ledger", url, "--by", "tag")]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--by", "colour"], "'colour' is not one of team, key, cost_center"),
        (["--by", "team,team_id"], "'team_id'"),
        (["--since", "yesterday"], "'yesterday' is not a day or time such as 2026-11-01"),
        (["--until", "2026-13-01"], "'2026-13-01' is not a day"),
        (["--format", "xml"], "xml"),
    ],
)
def test_wrong_use_is_explained_and_exits_2(url: str, args: list[str], said: str) -> None:
    result = run("--ledger", url, *args)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_a_missing_ledger_is_not_made(tmp_path: Path) -> None:
    result = run("--ledger", f"sqlite:///{tmp_path}/no.db")
    assert isinstance(result.exception, StartupError)
    assert str(result.exception) == f"there is no ledger {tmp_path}/no.db; name it with --ledger sqlite:///FILE"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_ledger_is_one_line_and_exit_code_3(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "oxyy_proxy", "usage", "--ledger", f"sqlite:///{tmp_path}/no.db"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.splitlines() == [
        f"oxyy-proxy: there is no ledger {tmp_path}/no.db; name it with --ledger sqlite:///FILE"
    ]


def test_help_names_every_dimension_and_shows_an_example() -> None:
    from oxyy_proxy.ledger.sqlite_reads import DIMENSIONS

    said = " ".join(run("--help").output.replace("│", " ").split())
    assert ", ".join(DIMENSIONS) in said
    assert "oxyy-proxy usage --by team,model --since 2026-11-01" in said
