from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import profile
from tests.benchmarks.__main__ import parse, run
from tests.benchmarks.profile import CouldNotProfile, record
from tests.benchmarks.targets import Stage
from tests.benchmarks.workloads import JSON


def test_a_flame_graph_names_the_functions_of_the_proxy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = tmp_path / "json.svg"
    run(parse(["--profile", str(graph), "--quick", "--only", "json"]))
    drawn = graph.read_text()
    assert "<svg" in drawn
    assert "oxyy_proxy/steps/" in drawn
    assert str(graph) in capsys.readouterr().out


def test_without_py_spy_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "py_spy", lambda: None)
    with pytest.raises(CouldNotProfile, match="pip install py-spy"):
        record(Stage(tmp_path, 1, 0), JSON, tmp_path / "out.svg", "key", 1)


def test_a_profile_is_of_one_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--profile", "x.svg"]).workload is JSON
    with pytest.raises(SystemExit):
        parse(["--profile", "x.svg", "--only", "json,burst"])
    assert "--only json or burst or paced" in capsys.readouterr().err
