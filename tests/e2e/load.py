"""Clients that keep asking, and note what they were told before the proxy died under them."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import aiohttp

from tests.audio_files import wav
from tests.rig import KEY

PICTURE = random.Random(0).randbytes(1_500_000)
"""A file that an upload keeps on disk: it is larger than what stays in memory."""

VIDEOS = "/videos/generations"


class Question(NamedTuple):
    """A request below /v1: a JSON body, or with `files` (field -> its name and bytes) a form."""

    path: str
    body: dict[str, Any]
    files: Mapping[str, tuple[str, bytes]] = {}

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    def payload(self) -> dict[str, Any]:
        """What an aiohttp client is to send."""
        if not self.files:
            return {"json": self.body}
        form = aiohttp.FormData()
        for name, value in self.body.items():
            form.add_field(name, value if isinstance(value, str) else json.dumps(value))
        for name, (filename, content) in self.files.items():
            form.add_field(name, io.BytesIO(content), filename=filename, content_type="application/octet-stream")
        return {"data": form}


@dataclass
class Told:
    """What clients have seen of answers that came whole. `cost_nusd`: by the header of those that name it; `jobs`: the
    id of a video -> its request. `on_whole` is called as soon as one is there."""

    whole: set[str] = field(default_factory=set)
    cost_nusd: dict[str, int] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    broken_off: int = 0
    refused: list[str] = field(default_factory=list)
    on_whole: Callable[[], None] = lambda: None

    @property
    def answers(self) -> int:
        return len(self.whole) + len(self.jobs)

    def came_whole(self, request_id: str) -> None:
        self.whole.add(request_id)
        self.on_whole()

    def has_job(self, job_id: str, request_id: str) -> None:
        self.jobs[job_id] = request_id
        self.on_whole()


def questions(rng: random.Random) -> Iterator[Question]:
    """Without end: half of them chat and embeddings, of which a share fails over; half of every other modality."""
    media = (_picture, _edit, _transcript, _speech, _video)
    while True:
        yield rng.choice((_text, rng.choice(media)))(rng)


def _text(rng: random.Random) -> Question:
    """JSON, streams and embeddings."""
    kind = rng.choice(("whole", "stream", "stream", "embeddings", "failover", "failover stream"))
    if kind == "embeddings":
        body = {"model": "text-embedding-3-small", "input": "text " * rng.randint(1, 50)}
        return Question("/embeddings", body)
    wishes: dict[str, Any] = {"words": rng.randint(5, 40)}
    model = "claude-opus-4.6"  # its chain has no other: what it may cost is its hold
    if kind.startswith("failover"):
        model = "gpt-5"
        wishes |= {"fault": "status", "status": 503, "model": model}
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "word " * rng.randint(1, 200)}],
        "max_tokens": 100,
        "stream": kind.endswith("stream"),
        "simulate": wishes,
    }
    return Question("/chat/completions", body)


def _picture(rng: random.Random) -> Question:
    model = rng.choice(("dall-e-3", "gpt-image-1"))
    size = rng.choice(("1024x1024", "1024x1792"))
    body = {"model": model, "prompt": "A cat", "size": size, "n": rng.randint(1, 3), "simulate": {"delay_ms": 10}}
    return Question("/images/generations", body)


def _edit(rng: random.Random) -> Question:
    body = {"model": rng.choice(("dall-e-3", "gpt-image-1")), "prompt": "A hat", "simulate": {"delay_ms": 20}}
    return Question("/images/edits", body, {"image": ("cat.png", PICTURE)})


def _transcript(rng: random.Random) -> Question:
    model = rng.choice(("whisper-1", "gpt-4o-mini-transcribe"))
    body = {"model": model, "stream": rng.choice((True, False)), "simulate": {"words": rng.randint(5, 40)}}
    return Question("/audio/transcriptions", body, {"file": ("talk.wav", wav(rng.uniform(0.1, 3)))})


def _speech(rng: random.Random) -> Question:
    wishes = {"bytes": rng.randint(1, 200_000), "chunked": rng.choice((True, False))}
    body = {"model": "tts-1-hd", "voice": "alloy", "input": "a" * rng.randint(1, 500), "simulate": wishes}
    return Question("/audio/speech", body)


def _video(rng: random.Random) -> Question:
    wishes = {"job_s": rng.uniform(0, 0.3), "fail": rng.random() < 0.2}
    return Question(VIDEOS, {"model": "veo-3", "prompt": "A lake", "duration": rng.randint(1, 8), "simulate": wishes})


async def ask_until_it_dies(url: str, clients: int, rng: random.Random, told: Told) -> None:
    """So many clients ask one question after the other, each until its connection breaks."""
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {KEY}"}) as session:
        asked = questions(rng)

        async def client() -> None:
            for question in asked:
                try:
                    await _ask(session, url, question, told)
                except (aiohttp.ClientError, ConnectionError):
                    told.broken_off += 1
                    return

        await asyncio.gather(*(client() for _ in range(clients)))


async def _ask(session: aiohttp.ClientSession, url: str, question: Question, told: Told) -> None:
    async with session.post(url + question.path, **question.payload()) as answer:
        content = await answer.read()
        request_id = answer.headers["x-request-id"]
        if answer.status != 200:
            told.refused.append(f"{question.path}: {answer.status} {content!r}")
        elif question.path == VIDEOS:
            told.has_job(json.loads(content)["id"], request_id)
        elif not question.stream:
            told.cost_nusd[request_id] = int(Decimal(answer.headers["x-oxyy-cost-usd"]).scaleb(9))
            told.came_whole(request_id)
        elif content.endswith(b"data: [DONE]\n\n"):
            told.came_whole(request_id)
        else:
            told.broken_off += 1
