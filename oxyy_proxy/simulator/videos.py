"""POST /v1/videos/generations: takes a job on. What becomes of it stands in `jobs`."""

from __future__ import annotations

import math
from fractions import Fraction

from .answers import Answer, Usage, json_answer
from .asked import Asked, count, required, text
from .images import input_images
from .jobs import Job

DEFAULT_SECONDS = 4
DEFAULT_RESOLUTION = "720p"


def answer(asked: Asked) -> Answer:
    """The answer to a submission, with the job that it promises; the job is charged when it completes.

    Raises ApiError 400.
    """
    required(asked.body, "prompt")
    input_images(asked)  # any number will do, but each must be a URL
    wishes = asked.wishes
    seconds: float = count(asked.body, "duration", least=1) or DEFAULT_SECONDS
    resolution = text(asked.body, "resolution") or DEFAULT_RESOLUTION
    job = Job(
        asked.model,
        seconds if wishes.actual_seconds is None else wishes.actual_seconds,
        resolution if wishes.actual_resolution is None else wishes.actual_resolution,
        job_s=wishes.job_s,
        fails=wishes.fail,
        omit=wishes.omit,
    )
    return json_answer(job.shown(), used(job), None, job=job)


def used(job: Job) -> Usage:
    """What a job costs as it stands: its length in ms, rounded up, at its resolution."""
    return Usage(video_ms=math.ceil(Fraction(str(job.duration)) * 1000), size=job.resolution)
