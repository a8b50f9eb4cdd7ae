"""One plain question for each endpoint, and the two models that may answer it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.audio_files import wav

BOUNDARY = "fault-matrix"


@dataclass(frozen=True)
class Question:
    """`main` is asked for, `spare` is its fallback. `prices`: of both, as policies and simulator write them."""

    endpoints: tuple[str, ...]
    path: str
    main: str
    spare: str
    prices: Mapping[str, Mapping[str, Any]]
    members: Mapping[str, Any]
    file: bytes = b""
    """With it the question is a form."""

    def model(self, name: str) -> str:
        """The model that the matrix calls so."""
        return {"main": self.main, "spare": self.spare}[name]

    def body(self, *, stream: bool = False, wishes: Mapping[str, Any] | None = None, pad: int = 0) -> tuple[str, bytes]:
        """(Content-Type, bytes)."""
        if self.file:
            return f"multipart/form-data; boundary={BOUNDARY}", self._form(pad)
        members = {"model": self.main, **self.members}
        if stream:
            members |= {"stream": True, "stream_options": {"include_usage": True}}
        if wishes:
            members["simulate"] = dict(wishes)
        if pad:
            members["x_padding"] = "x" * pad
        return "application/json", json.dumps(members).encode()

    def _form(self, pad: int) -> bytes:
        parts = [f'Content-Disposition: form-data; name="model"\r\n\r\n{self.main}'.encode()]
        head = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        parts.append(head + self.file + b"\0" * pad)
        joined = b"".join(b"--%b\r\n%b\r\n" % (BOUNDARY.encode(), part) for part in parts)
        return joined + b"--%b--\r\n" % BOUNDARY.encode()


def _pair(main: str, spare: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {"main": main, "spare": spare, "prices": {main: first, spare: second}}


QUESTIONS = {
    "chat": Question(
        ("chat",),
        "/v1/chat/completions",
        **_pair("gpt-5", "gpt-5-mini", {"input": "1.25", "output": "10"}, {"input": "0.25", "output": "2"}),
        members={"messages": [{"role": "user", "content": "Hello!"}]},
    ),
    "embeddings": Question(
        ("embeddings",),
        "/v1/embeddings",
        **_pair("embed-large", "embed-small", {"input": "0.13"}, {"input": "0.02"}),
        members={"input": "Hello!"},
    ),
    "images": Question(
        ("images",),
        "/v1/images/generations",
        **_pair("dall-e-3", "dall-e-2", {"image": "0.04"}, {"image": "0.02"}),
        members={"prompt": "A cat"},
    ),
    "videos": Question(
        ("videos",),
        "/v1/videos/generations",
        **_pair("veo-3", "veo-2", {"video_second": "0.4"}, {"video_second": "0.3"}),
        members={"prompt": "A cat", "duration": 2},
    ),
    "transcriptions": Question(
        ("transcriptions",),
        "/v1/audio/transcriptions",
        **_pair("whisper-1", "whisper-2", {"audio_minute": "0.006"}, {"audio_minute": "0.004"}),
        members={},
        file=wav(2.0),
    ),
    "speech": Question(
        ("speech",),
        "/v1/audio/speech",
        **_pair("tts-1-hd", "tts-1", {"character": "30"}, {"character": "15"}),
        members={"voice": "alloy", "input": "Hello there, and good day to everybody."},
    ),
}
