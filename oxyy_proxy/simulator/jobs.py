"""Video jobs: asked for, worked on, ended. A job ends by a timer or on demand, whether or not anybody polls it."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

ENDED = ("completed", "failed")
ESTIMATED_WAIT = "30-60s"
FAILURE = {"message": "The video could not be generated", "code": "generation_failed"}


class JobError(Exception):
    """A job that cannot be ended: there is none of this id (`status` 404), or it has ended already (409)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _now() -> str:
    """The time as the API writes it: UTC, whole seconds."""
    return datetime.fromtimestamp(int(time.time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Job:
    """One video. `duration` is in seconds; `polls` counts the GETs, `omit` names keys that their answers leave out.

    `queued` until the first poll has been answered, then `processing`, `completed` or `failed`. `job_s`: None as
    the simulator is set, infinite for a job that never ends by itself. `fails`: how its timer ends it.
    """

    model: str
    duration: float
    resolution: str
    job_s: float | None = None
    fails: bool = False
    omit: frozenset[str] = frozenset()
    id: str = field(default_factory=lambda: f"job_vid_{secrets.token_hex(8)}")
    created_at: str = field(default_factory=_now)
    status: str = "queued"
    completed_at: str | None = None
    polls: int = 0
    request_id: str | None = None

    def shown(self) -> dict[str, object]:
        """The answer to a submission or a poll, as documented for its status."""
        head: dict[str, object] = {"id": self.id, "status": self.status, "model": self.model}
        if self.status == "completed":
            tail: dict[str, object] = {
                "video_url": f"https://cdn.oxyy.ai/videos/2025/01/{self.id.removeprefix('job_vid_')}.mp4",
                "duration": self.duration,
                "resolution": self.resolution,
                "created_at": self.created_at,
                "completed_at": self.completed_at,
            }
        elif self.status == "failed":
            tail = {"error": FAILURE}
        else:
            tail = {"created_at": self.created_at, "estimated_wait": ESTIMATED_WAIT}
        return {key: value for key, value in {**head, **tail}.items() if key not in self.omit}

    def as_json(self) -> dict[str, object]:
        """Everything about it, for GET /-/jobs."""
        return {**asdict(self), "omit": sorted(self.omit)}


class JobBoard:
    """All jobs and their timers. `changed` is called whenever a job has ended."""

    def __init__(self, job_s: float | None, changed: Callable[[], None]) -> None:
        self.jobs: dict[str, Job] = {}
        self._job_s = job_s
        self._changed = changed
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._charges: dict[str, Callable[[Job], None]] = {}

    def start(self, job: Job, charge: Callable[[Job], None]) -> None:
        """Takes the job on; `charge` is called with it once it is completed, never if it fails."""
        self.jobs[job.id] = job
        self._charges[job.id] = charge
        seconds = self._job_s if job.job_s is None else job.job_s
        if seconds is not None and math.isfinite(seconds):
            end = self.fail if job.fails else self.complete
            self._timers[job.id] = asyncio.get_running_loop().call_later(seconds, end, job.id)

    def poll(self, job: Job) -> dict[str, object]:
        """The answer to one more poll."""
        answer = job.shown()
        job.polls += 1
        if job.status == "queued":
            job.status = "processing"
        return answer

    def complete(self, job_id: str, duration: float | None = None, resolution: str | None = None) -> None:
        """Ends a job well and charges it; `duration` (seconds) and `resolution` replace its own. Raises JobError."""
        job = self._take(job_id)
        if duration is not None:
            job.duration = duration
        if resolution is not None:
            job.resolution = resolution
        job.status, job.completed_at = "completed", _now()
        self._charges.pop(job_id)(job)
        self._changed()

    def fail(self, job_id: str) -> None:
        """Ends a job without a video and without a charge. Raises JobError."""
        job = self._take(job_id)
        job.status, job.completed_at = "failed", _now()
        del self._charges[job_id]
        self._changed()

    def stop(self) -> None:
        """Cancels all timers: what runs now never ends by itself."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _take(self, job_id: str) -> Job:
        """A job that has not ended, without its timer."""
        job = self.jobs.get(job_id)
        if job is None:
            raise JobError(404, f"no job {job_id}")
        if job.status in ENDED:
            raise JobError(409, f"job {job_id} is {job.status} already")
        if (timer := self._timers.pop(job_id, None)) is not None:
            timer.cancel()
        return job
