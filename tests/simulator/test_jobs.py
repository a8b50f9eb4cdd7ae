import asyncio
import math
import re

import pytest

from oxyy_proxy.simulator.jobs import Job, JobBoard, JobError


@pytest.fixture
def charged():
    return []


@pytest.fixture
def ended():
    return asyncio.Event()


@pytest.fixture
def board(ended):
    return JobBoard(0.01, ended.set)


def job(**more):
    return Job("veo-3", 4, "720p", **more)


async def test_a_timer_ends_a_job_and_charges_it_though_nobody_polls(board, charged, ended):
    one = job()
    board.start(one, charged.append)
    assert (one.status, charged) == ("queued", [])
    await asyncio.wait_for(ended.wait(), 5)
    assert (one.status, one.polls, charged) == ("completed", 0, [one])


async def test_a_job_that_fails_is_not_charged(board, charged, ended):
    one = job(fails=True)
    board.start(one, charged.append)
    await asyncio.wait_for(ended.wait(), 5)
    assert (one.status, charged) == ("failed", [])
    assert one.shown() == {
        "id": one.id,
        "status": "failed",
        "model": "veo-3",
        "error": {"message": "The video could not be generated", "code": "generation_failed"},
    }


async def test_it_is_queued_on_the_first_poll_and_processing_after_that(board, charged):
    one = job(job_s=math.inf)
    board.start(one, charged.append)
    assert [board.poll(one)["status"] for _ in range(3)] == ["queued", "processing", "processing"]
    assert one.polls == 3
    board.complete(one.id)
    assert board.poll(one)["status"] == "completed"


async def test_the_answers_are_the_documented_ones(board, charged):
    one = job()
    when = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    running = one.shown()
    assert list(running) == ["id", "status", "model", "created_at", "estimated_wait"]
    assert re.fullmatch(r"job_vid_[0-9a-f]+", running["id"])
    assert re.fullmatch(when, running["created_at"])
    board.start(one, charged.append)
    board.complete(one.id, resolution="1080p")
    done = one.shown()
    assert list(done) == [
        "id", "status", "model", "video_url", "duration", "resolution", "created_at", "completed_at",
    ]  # fmt: skip
    assert (done["duration"], done["resolution"]) == (4, "1080p")
    assert re.fullmatch(when, done["completed_at"])
    assert re.fullmatch(r"https://cdn\.oxyy\.ai/videos/2025/01/[0-9a-f]+\.mp4", done["video_url"])


async def test_a_job_ended_by_hand_is_not_ended_again_by_its_timer(board, charged, ended):
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    failed, last = job(job_s=0), job()
    board.start(failed, charged.append)
    board.fail(failed.id)
    ended.clear()
    board.start(last, charged.append)
    await asyncio.wait_for(ended.wait(), 5)
    assert (failed.status, charged, errors) == ("failed", [last], [])


@pytest.mark.parametrize("end", ["complete", "fail"])
async def test_what_has_ended_or_never_was_cannot_be_ended(board, charged, end):
    one = job()
    board.start(one, charged.append)
    board.complete(one.id, duration=2)
    with pytest.raises(JobError, match="completed already") as refused:
        getattr(board, end)(one.id)
    with pytest.raises(JobError, match="no job") as unknown:
        getattr(board, end)("job_vid_0")
    assert (refused.value.status, unknown.value.status) == (409, 404)
    assert (one.duration, charged) == (2, [one])


@pytest.mark.parametrize(("own", "boards"), [(math.inf, 0.0), (None, None)])
async def test_without_a_time_a_job_never_ends_by_itself(charged, own, boards, ended):
    board = JobBoard(boards, ended.set)
    forever, brief = job(job_s=own), job(job_s=0)
    board.start(forever, charged.append)
    board.start(brief, charged.append)
    await asyncio.wait_for(ended.wait(), 5)
    assert (forever.status, brief.status, charged) == ("queued", "completed", [brief])


async def test_a_stopped_board_ends_nothing(charged, ended):
    stopped, other = JobBoard(0, lambda: None), JobBoard(0, ended.set)
    one = job()
    stopped.start(one, charged.append)
    stopped.stop()
    other.start(job(), lambda _: None)
    await asyncio.wait_for(ended.wait(), 5)
    assert (one.status, charged) == ("queued", [])


def test_everything_about_a_job_is_shown_to_control():
    shown = job(omit=frozenset({"b", "a"})).as_json()
    assert {key: shown[key] for key in ("status", "duration", "polls", "omit")} == {
        "status": "queued",
        "duration": 4,
        "polls": 0,
        "omit": ["a", "b"],
    }
