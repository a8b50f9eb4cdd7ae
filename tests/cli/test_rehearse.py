"""`oxyy-proxy rehearse`: what it says, and to whom."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from oxyy_proxy.__main__ import command_line
from oxyy_proxy.cli.rehearse import price_list, questions, verdict
from oxyy_proxy.policyfiles import load
from oxyy_proxy.simulator.prices import read_prices
from tests.e2e.serving import PROXY, environment, write_policies
from tests.rig import MODELS, PRICES, team_file

SHORT = ("--for", "1s", "--before", "300ms", "--after", "300ms", "--rate", "30")


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A valid folder: gpt-5 falls back on gpt-5-mini, which has no fallback; `support` may call neither."""
    teams = {"search": team_file(), "support": team_file("support", "other key", allow="dall-e-3")}
    return write_policies(tmp_path / "policies", teams=teams)


def command(policies: Path, *options: str) -> list[str]:
    return [*PROXY, "rehearse", "--policies", str(policies), *options]


def run(policies: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (policies.parent / "tmp").mkdir(exist_ok=True)
    env = environment(TMPDIR=str(policies.parent / "tmp"))
    done = subprocess.run(command(policies, *options), capture_output=True, text=True, env=env, timeout=60)
    assert list((policies.parent / "tmp").iterdir()) == []
    return done


def test_json_is_all_that_is_on_stdout(policies: Path) -> None:
    done = run(policies, "--model", "gpt-5", *SHORT, "--format", "json", "--require", "99.9")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {key: found[key] for key in ("team", "models", "fault", "rate", "limits", "ended_early")} == {
        "team": "search",
        "models": ["gpt-5"],
        "fault": {"fault": "status", "status": 503},
        "rate": 30,
        "limits": False,
        "ended_early": False,
    }
    assert [*found["phases"]] == ["before", "outage", "after"]
    outage = found["phases"]["outage"]
    assert (outage["requests"], outage["succeeded"], outage["success_percent"]) == (30, 30, 100)
    assert (outage["answers"], outage["answered_by"]) == ({"200": 30}, {"gpt-5-mini": 30})
    assert outage["upstream_calls"]["gpt-5-mini"] == 30
    assert outage["upstream_calls"]["gpt-5"] == outage["retries"] >= 1
    assert 0 < outage["latency_ms"]["p50"] <= outage["latency_ms"]["p95"] <= outage["latency_ms"]["p99"]
    before = found["phases"]["before"]
    assert outage["added_ms"]["p50"] == pytest.approx(outage["latency_ms"]["p50"] - before["latency_ms"]["p50"])
    assert float(before["cost_usd"]) / 9 == pytest.approx(5 * float(outage["cost_usd"]) / 30)
    assert outage["cost_percent"] == 20
    assert before["cost_percent"] is None is before["added_ms"]
    assert found["verdict"].startswith(
        "100 % of 30 clients were answered while gpt-5 was down; gpt-5-mini answered 100 %"
    )
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["before", "outage", "after"]


def test_without_a_fallback_it_is_not_what_is_required(policies: Path) -> None:
    done = run(policies, "--model", "fast", *SHORT, "--require", "0.1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "not met: --require 0.1"
    rows = {cells[0]: cells[1:] for cells in (re.split(r"  +", line) for line in done.stdout.splitlines())}
    assert rows["requests"] == ["9", "30", "9"]
    assert rows["answered"][:2] == ["100 %", "0 %"]
    assert rows["answered by gpt-5-mini"][:2] == ["9", "0"]
    assert sum(int(row[1]) for name, row in rows.items() if name.startswith("got 503")) == 30
    assert "Requests went straight to a fallback: never." in done.stdout
    assert "Limits were lifted. Clients did not try again, as SDKs do." in done.stdout
    assert "0 % of 30 clients were answered while gpt-5-mini was down; most of them got: 503" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def shown(terminal: int) -> str:
    """All that comes to a terminal until the program that writes to it ends."""
    text = b""
    with suppress(OSError):  # EIO is how Linux ends it
        while data := os.read(terminal, 65536):
            text += data
    os.close(terminal)
    return text.decode()


def test_a_terminal_sees_it_go(policies: Path) -> None:
    (out, program_out), (err, program_err) = pty.openpty(), pty.openpty()
    env = environment(TERM="xterm", COLUMNS="80")
    args = command(policies, "--model", "gpt-5", *SHORT)
    with subprocess.Popen(args, stdin=program_out, stdout=program_out, stderr=program_err, env=env) as process:
        os.close(program_out)
        os.close(program_err)
        bar, text = shown(err), shown(out)
    assert process.returncode == 0
    assert bar.count("outage") > 3
    assert re.search(r"100 % of \d+ answered", bar)
    assert text.startswith("Clients of team search at 30 requests/s. The outage: status 503.")
    table, _, _ = text.partition("Requests went")
    assert "…" not in table
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in table.splitlines()) <= 80


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_shows_what_there_is(policies: Path, tmp_path: Path, number: signal.Signals) -> None:
    options = ("--model", "gpt-5", "--before", "100ms", "--rate", "50", "--format", "json")
    env = environment(TMPDIR=str(tmp_path))
    before = set(tmp_path.iterdir())
    with subprocess.Popen(
        command(policies, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline().startswith("before: ")  # the outage has begun
        time.sleep(0.5)
        process.send_signal(number)
        found = json.loads(process.stdout.read())
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()
    assert found["ended_early"]
    assert found["phases"]["outage"]["requests"] >= 5
    assert found["phases"]["after"]["requests"] == 0
    assert found["recovery_s"] is None
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "Missing option '--model'"),
        (("--model", "gpt-6"), "no model 'gpt-6' in models.yaml; did you mean 'gpt-5'?"),
        (("--model", "zzz"), "there are: gpt-5, gpt-5-mini"),
        (("--model", "veo-3"), "veo-3 has no price for any of: chat"),
        (("--model", "unpriced"), "unpriced has no price for any of: chat"),
        (("--model", "gpt-5", "--team", "nobody"), "no team 'nobody'; there are: search, support"),
        (("--model", "gpt-5", "--team", "support"), "team support may not call gpt-5"),
        (("--model", "gpt-5", "--for", "soon"), "expected a time such as 500ms, 60s, 10m or 2h"),
        (("--model", "gpt-5", "--for", "0"), "above 0"),
        (("--model", "gpt-5", "--before", "-1s"), "--before"),
        (("--model", "gpt-5", "--after", "x"), "--after"),
        (("--model", "gpt-5", "--patience", "x"), "--patience"),
        (("--model", "gpt-5", "--rate", "0"), "--rate"),
        (("--model", "gpt-5", "--require", "101"), "--require"),
        (("--model", "gpt-5", "--fault", "bang"), "there are: status"),
        (("--model", "gpt-5", "--fault", "{"), "is not JSON"),
        (("--model", "gpt-5", "--fault", "503:gpt-5"), "what is down is named by --model"),
        (("--model", "gpt-5", "--fault", "no_done", "--no-stream"), "hits streams alone"),
        (("--model", "dall-e-3", "--fault", "no_done"), "hits streams alone"),
    ],
)
def test_an_option_that_cannot_be_is_exit_2_and_says_what_can(
    policies: Path, options: tuple[str, ...], sentence: str
) -> None:
    result = CliRunner().invoke(
        command_line(), ["rehearse", "--policies", str(policies), *options], env={"TERMINAL_WIDTH": "300"}
    )
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


def test_a_team_that_may_call_all_of_the_models_is_needed(tmp_path: Path) -> None:
    teams = {"a": team_file("a", "1", allow="gpt-5"), "b": team_file("b", "2", allow="dall-e-3")}
    folder = write_policies(tmp_path / "policies", teams=teams)
    models = ("--model", "gpt-5", "--model", "dall-e-3")
    result = CliRunner().invoke(
        command_line(), ["rehearse", "--policies", str(folder), *models], env={"TERMINAL_WIDTH": "300"}
    )
    assert result.exit_code == 2
    assert "no team may call gpt-5 and dall-e-3" in result.stderr


def test_policies_that_are_not_valid_are_one_line_and_exit_3(policies: Path) -> None:
    (policies / "gateway.yaml").write_text("version: 1\nretries: {}\n")
    done = run(policies, "--model", "gpt-5")
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert "gateway.yaml:2:1: unknown field 'retries'" in line


def test_a_simulator_that_is_not_there_is_one_line_and_exit_3(policies: Path) -> None:
    done = run(policies, "--model", "gpt-5", "--simulator", "http://127.0.0.1:1/v1")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "oxyy-proxy: no simulator answers at http://127.0.0.1:1 ([Errno 111] Connection refused); "
        "is 'simulate' running?\n"
    )


def test_the_help_has_examples() -> None:
    result = CliRunner().invoke(command_line(), ["rehearse", "--help"])
    assert result.exit_code == 0
    assert "rehearse --fault 503 --model gpt-5 --for 60s" in result.stdout


def test_the_simulator_has_the_prices_and_endpoints_of_the_policies(policies: Path) -> None:
    models = load(policies).policy.models
    ours, theirs = read_prices(price_list(models)), read_prices(PRICES)
    assert ours.keys() == models.keys()
    for name, price in theirs.items():
        assert ours[name].rates == price.rates
    assert {name: price.endpoints for name, price in ours.items()} == {n: m.endpoints for n, m in models.items()}
    assert MODELS.count("endpoints:") == len(ours)


def test_chat_is_asked_for_whole_and_as_a_stream_and_what_is_no_chat_once(policies: Path) -> None:
    policy = load(policies).policy

    def kinds(stream: bool | None) -> list[tuple[str, bool]]:
        return [(question.model, question.stream) for question in questions(policy, ["gpt-5", "dall-e-3"], stream)]

    assert kinds(None) == [("gpt-5", False), ("dall-e-3", False), ("gpt-5", True)]
    assert kinds(True) == [("gpt-5", True), ("dall-e-3", False)]
    assert kinds(False) == [("gpt-5", False), ("dall-e-3", False)]


def figures(**changed: Any) -> dict[str, Any]:
    return {
        "requests": 1200,
        "succeeded": 1198,
        "success_percent": 99.83,
        "answers": {"200": 1198, "503 x": 2},
        "answered_by": {"gpt-5-mini": 1190, "gpt-5": 8},
        "added_ms": {"p50": 12.0},
        "cost_percent": 20.5,
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {},
            "99.83 % of 1,200 clients were answered while m was down; gpt-5-mini answered 99.33 % of them; +12 ms p50; "
            "an answer cost 20.5 % of what it costs otherwise; most of the others got: 503 x.",
        ),
        (
            {
                "succeeded": 0,
                "success_percent": 0.0,
                "answers": {"503 x": 1200},
                "answered_by": {},
                "cost_percent": None,
            },
            "0 % of 1,200 clients were answered while m was down; most of them got: 503 x.",
        ),
        ({"requests": 0}, "It ended before the outage began."),
    ],
)
def test_the_verdict_is_one_sentence(changed: dict[str, Any], said: str) -> None:
    assert verdict(figures(**changed), "m") == said
