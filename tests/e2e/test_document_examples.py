"""Every example of the upstream's documentation, run as it stands: it works, and it costs what the upstream bills.

`examples/` holds them word for word, one file per example and language. A run puts the proxy's URL and a team's key in
their place, and what CORRECTIONS and PRELUDES say. Left out is the one example in PHP: there is no PHP here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from oxyy_proxy.cli import demo
from oxyy_proxy.simulator import Job, Simulator
from tests.audio_files import mp3
from tests.e2e.conftest import require_tool
from tests.e2e.programs import NODE_PACKAGES, Ended, require_node, run
from tests.rig import ORG_KEY, Rig, team_file

FOLDER = Path(__file__).parent / "examples"
UPSTREAM, PLACEHOLDER_KEY = "https://api.oxyy.ai/v1", "YOUR_API_KEY"

PLACEHOLDER_JOB, SECOND_STEP = "job_vid_abc123", "# Step 2"
"""The polling example for curl is two commands, and the second names a job of nobody's: it is run with the id that the
first was answered with."""

PRELUDES = {"image.mjs": "import OpenAI from 'openai';\n"}
"""What an example takes from the one before it in the document: put above it, not into its file."""


class Correction(NamedTuple):
    wrong: str
    right: str
    reason: str


CORRECTIONS = {
    "video_polling.py": Correction(
        '{status["status"]}',
        "{status['status']}",
        "before Python 3.12 an f-string ends at the next quote of its own kind, so that it is a syntax error",
    ),
}
"""Errors of the document that keep an example from running."""
if sys.version_info >= (3, 12):
    CORRECTIONS.clear()

INPUTS = {
    "source.png": base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    ),
    "photo.jpg": base64.b64decode(
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI////////////////////////////////////////"
        "////////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AP//Z"
    ),
    "interview.mp3": mp3(200),
    "audio.mp3": mp3(77),
}
"""The files that the examples open: pictures of one pixel, and silence of 5.2 and of 2.0 seconds."""

TEXT = r"\S.*\n"
IMAGE_URL = r"https://\S+\.png\n"
VIDEO = r"Job submitted: job_\w+\nStatus: queued\.\.\. waiting\nVideo ready: https://\S+\.mp4\n"
TRANSCRIPT = r'\{"text":".+","language":"en","duration":[\d.]+,"segments":\[.+\].*\}'


class Example(NamedTuple):
    """What an example asks for, and what it prints, as a regular expression."""

    endpoint: str
    prints: str


EXAMPLES: Mapping[str, Example] = {
    "quick_start.py": Example("chat", TEXT),
    "quick_start.mjs": Example("chat", TEXT),
    "quick_start.sh": Example("chat", r'\{.*"content":".+".*\}'),
    "chat.py": Example("chat", TEXT),
    "chat.mjs": Example("chat", TEXT),
    "chat.sh": Example("chat", r'\{.*"content":".+".*\}'),
    "image.py": Example("images", IMAGE_URL),
    "image.mjs": Example("images", IMAGE_URL),
    "image.sh": Example("images", r'\{.*"url":"https://\S+\.png".*\}'),
    "video_submit.py": Example("videos", r"Job ID: job_\w+\n"),
    "video_submit.sh": Example("videos", r'\{"id":"job_\w+","status":"queued".*\}'),
    "video_polling.py": Example("videos", VIDEO),
    "video_polling.mjs": Example("videos", VIDEO),
    "video_polling.sh": Example("videos", r'(\{"id":"job_\w+","status":"queued".*\})\1'),
    "image_edit.py": Example("image_edits", r"\{.*'data': \[\{'url': 'https://\S+\.png'\}\].*\}\n"),
    "image_edit.mjs": Example("image_edits", IMAGE_URL),
    "image_edit.sh": Example("image_edits", r'\{.*"url":"https://\S+\.png".*\}'),
    "image_to_video.py": Example("videos", r"Job ID: job_\w+\n"),
    "image_to_video.sh": Example("videos", r'\{"id":"job_\w+","status":"queued".*\}'),
    "transcription.py": Example("transcriptions", r"Text: \S.*\n(\d\.\ds - \d\.\ds: .+\n)+"),
    "transcription.mjs": Example("transcriptions", TEXT),
    "transcription.sh": Example("transcriptions", TRANSCRIPT),
    "speech.py": Example("speech", ""),
    "speech_to_text.py": Example("transcriptions", TEXT),
    "speech_to_text.sh": Example("transcriptions", r'\{"text":".+".*\}'),
    "embeddings.py": Example("embeddings", r"[1-9]\d* dimensions\n"),
}

SEES_THE_END = ("video_polling.py", "video_polling.mjs")
"""Examples that wait for their video, five seconds. The others leave it to somebody else to ask."""

AT_ONCE = 8

PROGRAMS: Mapping[str, Callable[[], str]] = {
    ".py": lambda: sys.executable,
    ".mjs": require_node,
    ".sh": lambda: require_tool("curl") and require_tool("sh"),
}
"""What runs an example, by the ending of its name."""


@dataclass(frozen=True)
class Ran:
    """`ended`: one for each command. `states`: of its rows when it was over; `rows`: once its video had been seen."""

    folder: Path
    ended: list[Ended]
    states: list[str]
    rows: list[dict[str, Any]]

    @property
    def stdout(self) -> str:
        return "".join(end.stdout for end in self.ended)


@dataclass(frozen=True)
class All:
    """The examples that could be run here, by name, and what the upstream and the ledger know of all of them."""

    ran: Mapping[str, Ran]
    simulator: Simulator
    rows: list[dict[str, Any]]

    def __getitem__(self, name: str) -> Ran:
        """Skips, or fails in CI, where the program for it is missing."""
        PROGRAMS[Path(name).suffix]()
        return self.ran[name]

    def billed_nusd(self) -> dict[str | None, int]:
        """Request id -> what the upstream charges for it."""
        billed: defaultdict[str | None, int] = defaultdict(int)
        for entry in self.simulator.bill:
            billed[entry.request_id] += entry.cost_nusd
        return billed


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> All:
    """Run all of them side by side, those that wait first."""
    return asyncio.run(run_all(tmp_path_factory.mktemp("examples")))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_document_works_as_it_stands(examples: All, name: str) -> None:
    ran = examples[name]
    assert [end.code for end in ran.ended] == [0] * len(ran.ended), ran
    assert re.fullmatch(EXAMPLES[name].prints, ran.stdout), ran


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_costs_what_the_upstream_bills_for_it(examples: All, name: str) -> None:
    (row,) = examples[name].rows
    assert (row["state"], row["unresolved_nusd"], row["overrun"]) == ("settled", 0, 0)
    assert (row["endpoint"], row["model_served"]) == (EXAMPLES[name].endpoint, model_of(name))
    assert row["cost_nusd"] == examples.billed_nusd()[row["request_id"]] > 0
    assert row["usage_source"] in ("upstream", "computed")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if EXAMPLES[name].endpoint == "videos"])
def test_a_video_is_charged_when_its_client_has_seen_it(examples: All, name: str) -> None:
    assert examples[name].states == ["settled" if name in SEES_THE_END else "open"]


def test_nothing_is_billed_or_booked_but_the_examples(examples: All) -> None:
    assert {row["request_id"]: row["cost_nusd"] for row in examples.rows} == examples.billed_nusd()
    assert sum(row["cost_nusd"] for row in examples.rows) == examples.simulator.total_nusd


def test_curl_gets_the_bytes_that_the_upstream_sent(examples: All) -> None:
    require_tool("curl")
    sent = {digest for _, status, _, digest in examples.simulator.sent if status == 200}
    bodies = [end.stdout for name in EXAMPLES if name.endswith(".sh") for end in examples[name].ended]
    assert {sha256(body.encode()) for body in bodies} <= sent


def test_the_sound_that_is_saved_is_the_sound_that_was_sent(examples: All) -> None:
    saved = sha256((examples["speech.py"].folder / "output.mp3").read_bytes())
    assert saved in {digest for path, *_, digest in examples.simulator.sent if path == "/v1/audio/speech"}


def test_files_reach_the_upstream_byte_for_byte(examples: All) -> None:
    opened = Counter(
        (name, sha256(content)) for example in examples.ran for name, content in INPUTS.items() if name in text(example)
    )
    assert opened == Counter((upload.filename, upload.sha256) for upload in examples.simulator.uploads)


def test_every_language_gets_the_same_answer(examples: All) -> None:
    chat, image = (json.loads(examples[name].stdout) for name in ("quick_start.sh", "image.sh"))
    for ending in (".py", ".mjs"):
        assert examples[f"quick_start{ending}"].stdout == chat["choices"][0]["message"]["content"] + "\n"
        assert examples[f"image{ending}"].stdout == image["data"][0]["url"] + "\n"


def test_every_example_is_run() -> None:
    assert {file.name for file in FOLDER.iterdir() if file.suffix in PROGRAMS} == EXAMPLES.keys()


async def run_all(folder: Path) -> All:
    """Each example with a team of its own, which may use the models that it names and no others."""
    names = sorted(filter(can_run, EXAMPLES), key=lambda name: name not in SEES_THE_END)
    demo.write_policies(folder / "demo", "for its prices alone")
    rig = Rig(
        folder,
        models=(folder / "demo" / "models.yaml").read_text(),
        teams={team_of(name): team_file(team_of(name), key_of(name), f'"{model_of(name)}"') for name in names},
        simulator=Simulator(org_key=ORG_KEY, job_s=None),
    )
    await rig.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            director = tasks.create_task(complete_what_is_polled(rig.simulator))
            async with asyncio.TaskGroup() as clients:
                room = asyncio.Semaphore(AT_ONCE)
                running = {name: clients.create_task(run_one(rig, name, room)) for name in names}
            director.cancel()
    finally:
        await rig.stop()
    return All({name: task.result() for name, task in running.items()}, rig.simulator, rig.rows())


async def run_one(rig: Rig, name: str, room: asyncio.Semaphore) -> Ran:
    """Run an example, then see its video to its end, if it has one that runs."""
    folder = rig.folder / "work" / name
    folder.mkdir(parents=True)
    for file, content in INPUTS.items():
        (folder / file).write_bytes(content)
    (folder / "node_modules").symlink_to(NODE_PACKAGES)
    async with room:
        ended = [end async for end in commands(rig, name, folder)]
    rows = rows_of(rig, name)
    running = {row["request_id"] for row in rows if row["state"] == "open"}
    for job in [job for job in rig.simulator.jobs.values() if job.request_id in running]:
        await see_the_end(rig, name, job)
    return Ran(folder, ended, [row["state"] for row in rows], rows_of(rig, name))


async def commands(rig: Rig, name: str, folder: Path) -> AsyncIterator[Ended]:
    """Run an example, each of its commands that needs the answer to another behind that one."""
    program, source = PROGRAMS[Path(name).suffix](), filled_in(name, rig.url)
    first, step, second = source.partition(SECOND_STEP) if PLACEHOLDER_JOB in source else (source, "", "")
    (folder / name).write_text(first)
    end = await run(folder, program, name)
    yield end
    if second:
        (folder / name).write_text(step + second.replace(PLACEHOLDER_JOB, json.loads(end.stdout)["id"]))
        yield await run(folder, program, name)


async def see_the_end(rig: Rig, name: str, job: Job) -> None:
    """Poll a job until the team has heard that it is completed."""
    url, headers = f"{rig.url}/videos/generations/{job.id}", {"Authorization": f"Bearer {key_of(name)}"}
    for _ in range(2):  # the first poll makes it complete
        async with rig.client.get(url, headers=headers) as answer:
            told = await answer.json()
        await rig.simulator.wait_for(lambda: job.status == "completed")
    assert told["status"] == "completed", told


async def complete_what_is_polled(simulator: Simulator) -> None:
    """A video is ready once somebody has been told that it is not."""
    polled: list[Job] = []

    def find() -> bool:
        polled[:] = [job for job in simulator.jobs.values() if job.polls and job.status == "processing"]
        return bool(polled)

    while True:
        await simulator.wait_for(find, timeout_s=600)
        for job in polled:
            simulator.complete(job.id)


def text(name: str) -> str:
    """The example, word for word."""
    return (FOLDER / name).read_text()


def filled_in(name: str, url: str) -> str:
    """The example as it is run."""
    source = text(name)
    changes = [(UPSTREAM, url), (PLACEHOLDER_KEY, key_of(name))]
    if name in CORRECTIONS:
        changes.append(CORRECTIONS[name][:2])
    for old, new in changes:
        assert old in source, f"{name} has no {old}"
        source = source.replace(old, new)
    return PRELUDES.get(name, "") + source


def model_of(name: str) -> str:
    """The one model that an example names."""
    (model,) = set(re.findall(r"""\bmodel["']?\s*[:=]\s*["']?([\w.-]+)""", text(name)))
    return str(model)


def can_run(name: str) -> bool:
    try:
        PROGRAMS[Path(name).suffix]()
    except (pytest.skip.Exception, pytest.fail.Exception):
        return False
    return True


def team_of(name: str) -> str:
    return re.sub(r"\W|_", "-", name)


def key_of(name: str) -> str:
    return f"team-key-{team_of(name)}"


def rows_of(rig: Rig, name: str) -> list[dict[str, Any]]:
    return [row for row in rig.rows() if row["team"] == team_of(name)]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
