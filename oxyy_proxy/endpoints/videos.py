"""POST /v1/videos/generations: a job, priced by the seconds and the resolution of the video that it makes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from oxyy_proxy.endpoints.base import Answer, Ask, Endpoint, JobSeen, error_answer, read_object
from oxyy_proxy.endpoints.fields import Fields, FormFields, JsonFields, milliseconds, told_word
from oxyy_proxy.endpoints.images import MAX_UPLOAD_BYTES
from oxyy_proxy.errors import InvalidValue, UpstreamBadResponse
from oxyy_proxy.rules.multipart import Form, Pieces
from oxyy_proxy.rules.types import Model, PartTokens, Usage

DEFAULT_SECONDS = 4
"""What the upstream makes when the body does not say (its documentation, "Video Generation"); sent with every body."""

MAX_SECONDS = 7200
"""More than any model makes. With the dearest price that a policy may set, a million USD, the cost fits 64 bits."""

MAX_ID_CHARS = 256
"""Of the upstream's name for a job."""

_JOB_ID = re.compile(rf"[A-Za-z0-9_~@=+,:./-]{{1,{MAX_ID_CHARS}}}")
"""What stands in a path as it is: a job of another name could not be asked for."""

_TAKEN_ON = ("queued", "pending", "running", "processing", "in_progress", "completed")
"""Statuses of a job that may be charged, whatever else is said of it."""


class VideosAsk(Ask):
    """A request for a video. Its answer names a job, which is on record before anybody hears of it."""

    holds_back = True

    __slots__ = ("_fields", "_seconds", "_size", "content_type", "model", "urls")

    def __init__(self, fields: Fields) -> None:
        """Raises InvalidValue."""
        self._fields = fields
        self.content_type = fields.content_type
        self.model = fields.model
        fields.required("prompt")
        self._seconds = fields.integer("duration", least=1, most=MAX_SECONDS)
        self._size = fields.word("resolution")
        fields.text("image_base64")
        self.urls = fields.addresses("image")
        fields.forget()

    def worst(self, model: Model, parts: PartTokens) -> Usage:
        self._fields.require_room_for(model.name)
        seconds = self._seconds_for(model)
        if model.max_seconds is not None and seconds > model.max_seconds:
            raise InvalidValue(
                f"'duration' is {seconds} seconds; {model.name} makes {model.max_seconds} at most.", param="duration"
            )
        return Usage(video_ms=seconds * 1000, size=self._size)

    def body_for(self, model: Model) -> bytes | Pieces:
        changes: dict[str, str | int] = {}
        if model.name != self.model:
            changes["model"] = model.name
        if self._seconds is None:
            changes["duration"] = self._seconds_for(model)
        return self._fields.changed(changes)

    def read(self, body: bytes, model: Model, parts: PartTokens) -> Answer:
        answer = read_object(body, may_tell_error=True)
        job_id, error = answer.get("id"), answer.get("error")
        if error and answer.get("status") not in _TAKEN_ON:
            raise error_answer(error)
        if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
            raise UpstreamBadResponse("The upstream's answer named no job. Ask your platform team what became of it.")
        return Answer(None, job=_seen(job_id, answer))

    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        return replace(self.worst(model, parts), source="estimated")

    def _seconds_for(self, model: Model) -> int:
        default = model.default_seconds or min(DEFAULT_SECONDS, model.max_seconds or DEFAULT_SECONDS)
        return self._seconds or default


def path_of(job_id: str) -> str:
    """Where the upstream tells of a job."""
    return f"{ENDPOINT.path}/{job_id}"


def read_job(job_id: str, body: bytes) -> JobSeen:
    """What a 200 answer to GET /v1/videos/generations/{id} says. Raises UpstreamBadResponse where it is not JSON, or of
    another job."""
    # A failed job may carry `error` beside its status, which is no failure of this answer.
    answer = read_object(body, may_tell_error=True)
    if answer.get("id") not in (None, job_id):
        raise UpstreamBadResponse("The upstream answered for another job. Retry.")
    return _seen(job_id, answer)


def _seen(job_id: str, answer: dict[str, Any]) -> JobSeen:
    status = answer.get("status")
    return JobSeen(
        job_id,
        "completed" if status == "completed" else "failed" if status == "failed" else "running",
        milliseconds(answer.get("duration"), MAX_SECONDS * 1000),
        told_word(answer, "resolution"),
    )


def parse(raw: bytes) -> VideosAsk:
    """A JSON body. Raises InvalidJson or InvalidValue."""
    return VideosAsk(JsonFields(raw))


def parse_form(form: Form, content_type: str) -> VideosAsk:
    """A form, with an image to begin from. Raises InvalidValue."""
    return VideosAsk(FormFields(form, content_type))


ENDPOINT = Endpoint(
    name="videos",
    path="/videos/generations",
    bases=(frozenset({"video_second"}),),
    parse=parse,
    parse_form=parse_form,
    max_form_bytes=MAX_UPLOAD_BYTES,
    after_ambiguous=0,
)
