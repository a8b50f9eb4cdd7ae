"""How commands print."""

from __future__ import annotations

import csv
import io
import json

import pytest

from oxyy_proxy.cli.output import Format, TableFormat, print_csv, print_json, print_table

COLUMNS = ["team", "requests", "cost_usd"]


def test_the_formats_that_a_command_takes() -> None:
    assert [str(each) for each in Format] == ["text", "json"]
    assert [str(each) for each in TableFormat] == ["table", "csv", "json"]


def test_json_is_for_scripts_and_for_eyes(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"ok": True, "errors": []})
    said = capsys.readouterr().out
    assert json.loads(said) == {"ok": True, "errors": []}
    assert said == '{\n  "ok": true,\n  "errors": []\n}\n'


def test_csv_has_a_header_and_survives_any_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(COLUMNS, [['a "quoted", one', 1, "0.10"], ["two\nlines", 2, "3.00"]])
    said = capsys.readouterr().out
    assert said.startswith("team,requests,cost_usd\n")
    assert list(csv.reader(io.StringIO(said))) == [
        COLUMNS,
        ['a "quoted", one', "1", "0.10"],
        ["two\nlines", "2", "3.00"],
    ]


def test_csv_without_rows_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(COLUMNS, [])
    assert capsys.readouterr().out == "team,requests,cost_usd\n"


def test_a_table_aligns_text_left_and_figures_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [["search", 12345678, "1.00"], ["hr", 7, "1000.005"]], left=1)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "team    requests  cost_usd",
        "search  12345678      1.00",
        "hr             7  1000.005",
    ]


def test_a_table_in_a_pipe_is_cut_nowhere_and_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a-very-long-name-" * 40
    print_table([long, "n"], [[long, 1]], left=1)
    said = capsys.readouterr().out
    assert said.count(long) == 2
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "text", ["[/]", "[red]alarm[/red]", "[bold", ":warning:", "[link=http://x]y[/link]", "1 [2] 3"]
)
def test_text_in_a_table_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """A tag comes from a request; it is no markup."""
    print_table(["tag", "requests"], [[text, 1]], left=1)
    assert capsys.readouterr().out.splitlines()[1].split("  ")[0] == text
