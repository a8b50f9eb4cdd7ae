from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.benchmarks import instructions
from tests.benchmarks.callgrind import CouldNotCount
from tests.benchmarks.instructions import Committed, as_toml, environment, judge, main, read, settled

HERE = {"python": "CPython 3.11.7", "cpu": "x86_64 avx2"}
ELSEWHERE = {"python": "CPython 3.12.1", "cpu": "x86_64 avx2"}
COMMITTED = Committed(HERE, {"json": {"naive": 600_000, "proxy": 540_000}})


@pytest.mark.parametrize("proxy", [540_000, 556_000, 524_000])
def test_what_is_within_three_percent_passes_in_silence(proxy: int) -> None:
    verdict = judge({"json": {"naive": 600_000, "proxy": proxy}}, HERE, COMMITTED)
    assert not verdict.failed
    assert len(verdict.said) == 1
    assert "commit to it" not in verdict.said[0]


def test_a_dearer_request_fails_with_both_figures() -> None:
    verdict = judge({"json": {"naive": 700_000, "proxy": 561_600}}, HERE, COMMITTED)
    assert verdict.failed == ("json: 561,600 instructions per request, committed 540,000 (+4.0%, at most +3%)",)


def test_a_cheaper_request_asks_for_an_update() -> None:
    verdict = judge({"json": {"naive": 600_000, "proxy": 500_000}}, HERE, COMMITTED)
    assert not verdict.failed
    assert "--update" in verdict.said[0]


@pytest.mark.parametrize(("proxy", "failed"), [(900_000, False), (950_000, True)])
def test_elsewhere_the_ratio_to_the_naive_pass_through_is_compared(proxy: int, failed: bool) -> None:
    verdict = judge({"json": {"naive": 1_000_000, "proxy": proxy}}, ELSEWHERE, COMMITTED)
    assert bool(verdict.failed) is failed
    assert verdict.said[0] == "compared over the naive pass-through: python differ from the committed figures'"
    if failed:
        assert "0.950 times the naive pass-through's" in verdict.failed[0]


@pytest.mark.parametrize(
    ("counts", "enough"),
    [([], False), ([100], False), ([1000, 1009], True), ([1000, 1020], False), ([1020, 1000, 1005], True)],
)
def test_it_counts_until_two_counts_agree(counts: list[int], enough: bool) -> None:
    assert settled(counts) is enough


def test_it_does_not_count_for_ever() -> None:
    assert settled([1000, 1100, 1200, 1300, 1400])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "instructions.toml"
    file.write_text(as_toml(COMMITTED.figures, HERE, "abc", 'a "fast" one'))
    assert read(file) == COMMITTED
    assert tomllib.loads(file.read_text())["machine"] == 'a "fast" one'


def test_the_committed_figures_are_of_every_workload() -> None:
    committed = read(instructions.FILE)
    assert set(committed.figures) == {workload.name for workload, _ in instructions.REQUESTS}
    assert set(committed.environment) == set(environment())
    assert judge(committed.figures, committed.environment, committed).failed == ()


def test_without_figures_it_says_how_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions, "FILE", tmp_path / "none.toml")
    with pytest.raises(CouldNotCount):
        read(tmp_path / "none.toml")
    assert main([]) == 1
    assert "write it with --update" in capsys.readouterr().err
