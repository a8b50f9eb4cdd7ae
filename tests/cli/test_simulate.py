"""`simulate` as a process: what it prints, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import typer
from typer.testing import CliRunner

from oxyy_proxy.cli.simulate import simulate

APP = "import typer; from oxyy_proxy.cli.simulate import simulate; typer.run(simulate)"
QUESTION = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello!"}]}


@contextmanager
def running(*options: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, its origin, and the banner it printed."""
    command = [sys.executable, "-c", APP, "--listen", "127.0.0.1:0", *options]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            banner = ""
            for line in process.stdout:
                banner += line
                if line.startswith("Ctrl-C"):
                    break
            else:
                pytest.fail(process.stderr.read())
            yield process, banner.partition("listens on")[2].split()[0], banner
        finally:
            process.kill()


def call(url, body=None, key=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def invoke(*options):
    app = typer.Typer()
    app.command()(simulate)
    return CliRunner().invoke(app, options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_listens_answers_and_stops_on_a_signal(number):
    with running() as (process, origin, banner):
        assert "nothing here is real" in banner
        assert f"curl {origin}/-/bill" in banner
        status, answer = call(f"{origin}/v1/chat/completions", QUESTION)
        assert (status, answer["object"]) == (200, "chat.completion")
        assert call(f"{origin}/-/bill")[1]["total_nusd"] > 0
        process.send_signal(number)
        assert process.wait(5) == 0
        assert process.stderr.read() == ""


def test_faults_prices_and_key_are_taken_from_outside(tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text('{"m": {"input": 0.1, "output": 0.3}, "n": {"output": 1}}')
    options = ("--prices", str(prices), "--fault", "503:n", "--fault", '{"fault": "status", "status": 429, "times": 1}')
    with running(*options, OXYY_SIMULATOR_KEY="sk-sim") as (_, origin, banner):
        assert "models       m, n" in banner
        assert "sk-sim" not in banner
        chat = f"{origin}/v1/chat/completions"
        assert call(chat, {**QUESTION, "model": "m"})[0] == 401
        assert [call(chat, {**QUESTION, "model": model}, "sk-sim")[0] for model in "nmm"] == [503, 429, 200]
        entry = call(f"{origin}/-/bill")[1]["entries"][-1]
        assert entry["cost_nusd"] == entry["input_tokens"] * 100 + entry["output_tokens"] * 300


def wait_for_bill(origin):
    """The first entries of the bill; a video is entered when it is done."""
    for _ in range(100):
        if entries := call(f"{origin}/-/bill")[1]["entries"]:
            return entries
        time.sleep(0.02)
    pytest.fail("nothing is billed")


def test_a_video_takes_as_long_as_it_is_told_to():
    video = {"model": "veo-3", "prompt": "A lake"}
    with running("--job-s", "0") as (_, origin, banner):
        assert f"curl {origin}/-/jobs" in banner
        job = call(f"{origin}/v1/videos/generations", video)[1]
        (entry,) = wait_for_bill(origin)
        assert (entry["endpoint"], entry["video_ms"]) == ("videos", 4000)
        assert call(f"{origin}/v1/videos/generations/{job['id']}")[1]["status"] == "completed"


def test_prices_may_have_variants(tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text('{"p": {"image": {"default": 0.04, "512x512": 0.02}}, "q": {"input": 1, "endpoints": ["chat"]}}')
    with running("--prices", str(prices)) as (_, origin, _banner):
        call(f"{origin}/v1/images/generations", {"model": "p", "prompt": "A lake", "size": "512x512"})
        assert call(f"{origin}/v1/chat/completions", {**QUESTION, "model": "q"})[0] == 200
        assert [one["cost_nusd"] for one in call(f"{origin}/-/bill")[1]["entries"]] == [20_000_000, 5000]


def test_a_port_in_use_is_one_clear_line_and_exit_3():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = invoke("--listen", f"127.0.0.1:{port}")
    assert result.exit_code == 3
    assert result.stderr == (
        f"simulate: cannot listen on 127.0.0.1:{port}: Address already in use. Choose another --listen.\n"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--listen", "8081"), "is not HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), "is not HOST:PORT"),
        (("--fault", "bang"), "there are: status"),
        (("--fault", "{"), "is not JSON"),
        (("--fault", "200"), "from 300 to 599"),
        (("--pace-ms", "-1"), "--pace-ms"),
        (("--job-s", "-1"), "--job-s"),
        (("--prices", "/nowhere.json"), "does not exist"),
    ],
)
def test_an_option_that_cannot_be_is_exit_2_and_says_what_can(options, sentence):
    result = invoke(*options)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("text", ["[]", "{", '{"m": 1}', '{"m": {"input": "cheap"}}', '{"m": {"image": {"hd": 1}}}'])
def test_a_price_file_that_cannot_be_read_is_exit_2(tmp_path, text):
    prices = tmp_path / "prices.json"
    prices.write_text(text)
    result = invoke("--prices", str(prices))
    assert result.exit_code == 2
    assert "--prices" in result.stderr


def test_the_help_has_examples():
    result = invoke("--help")
    assert result.exit_code == 0
    assert "simulate --fault 503:gpt-5" in result.stdout
