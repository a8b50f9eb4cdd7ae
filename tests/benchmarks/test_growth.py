from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from oxyy_proxy.ledger.sqlite_reads import read_spend, verify
from tests.benchmarks import growth
from tests.benchmarks.growth import BYTES_PER_ROW, fill, main, that_fit

NOW = 1_795_364_598.6


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("growth") / "ledger.db"
    fill(path, 3000, NOW, days=1)
    return path


async def test_a_filled_ledger_holds_every_promise(ledger: Path) -> None:
    verdict = await verify(f"sqlite:///{ledger}")
    assert (verdict.broken, verdict.requests, verdict.open, verdict.overruns) == ((), 3000, 0, 0)


async def test_its_requests_are_of_several_teams_models_and_days(ledger: Path) -> None:
    spend = await read_spend(f"sqlite:///{ledger}", ("team", "model", "day"))
    teams, models, days = (len({each.group[index] for each in spend}) for index in range(3))
    assert (teams, models, days) == (8, 5, 2)
    assert all(each.cost_nusd > 0 and each.input_tokens > 0 and each.output_tokens > 0 for each in spend)


def test_counters_go_up_to_now_so_that_none_is_summed_up_while_somebody_measures(ledger: Path) -> None:
    with sqlite3.connect(ledger) as db:
        found = dict(db.execute("SELECT limit_id, max(window_end) FROM counters WHERE spent > 0 GROUP BY 1").fetchall())
    db.close()
    assert set(found) == {"organisation usd/month", "bench usd/month", "bench tokens/day", "bench requests/minute"}
    assert all(end > NOW - 120 for end in found.values())


def test_rows_take_no_more_room_than_is_asked_for(tmp_path: Path) -> None:
    sizes = []
    for rows in (1000, 11_000):
        fill(tmp_path / f"{rows}.db", rows, NOW, days=1)
        sizes.append((tmp_path / f"{rows}.db").stat().st_size)
    assert BYTES_PER_ROW / 3 < (sizes[1] - sizes[0]) / 10_000 < BYTES_PER_ROW


def test_each_block_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "BLOCK", 400)
    told: list[str] = []
    fill(tmp_path / "ledger.db", 1000, NOW, told.append, days=1)
    assert [each.rpartition(": ")[2] for each in told] == ["0 made", "400 made", "800 made"]


def test_ledgers_that_do_not_fit_side_by_side_are_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth.shutil, "disk_usage", lambda _: SimpleNamespace(free=6 * 10**9))
    fit, notes = that_fit(tmp_path, (0, 10**6, 10**7))
    assert fit == [0, 10**6]
    assert notes == [f"a ledger of 10,000,000 rows was left out: it wants 6.0 GB and 5.4 GB are free in {tmp_path}"]


@pytest.mark.parametrize("rows", ["0", "1000000000000"])
def test_what_does_not_fit_is_refused(tmp_path: Path, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "ledger.db"), rows])
    assert "at least one" in (said := capsys.readouterr().err) or "GB are free" in said
