import base64

import pytest

from oxyy_proxy.simulator import Simulator

from .conftest import KEY, dial, hear

VEO = {"model": "veo-3", "prompt": "A serene lake"}
NEVER, AT_ONCE = {"job_s": None}, {"job_s": 0}
PATH = "/videos/generations"


@pytest.fixture
def poll(http):
    async def go(job_id):
        async with http.get(f"/v1{PATH}/{job_id}") as answer:
            return answer.status, await answer.json()

    return go


async def submitted(post, wishes, **more):
    return (await post(PATH, {**VEO, "simulate": wishes, **more})).json["id"]


async def test_a_submission_is_answered_as_documented_and_not_billed(post, sim):
    said = await post(PATH, {**VEO, "duration": 4, "resolution": "1080p"})
    answer = said.json
    assert (said.status, list(answer)) == (200, ["id", "status", "model", "created_at", "estimated_wait"])
    assert (answer["status"], answer["model"], answer["estimated_wait"]) == ("queued", "veo-3", "30-60s")
    assert sim.bill == []


async def test_the_same_submission_twice_is_two_jobs(post, sim):
    assert len({await submitted(post, NEVER) for _ in range(3)}) == len(sim.jobs) == 3


async def test_a_job_is_billed_when_it_completes_though_nobody_polls(http, sim, post):
    body = {**VEO, "duration": 6, "resolution": "1080p", "simulate": NEVER}
    async with http.post(f"/v1{PATH}", json=body, headers={"x-request-id": "r-7"}) as answer:
        job_id = (await answer.json())["id"]
    assert sim.bill == []
    sim.complete(job_id)
    (entry,) = sim.bill
    assert (entry.request_id, entry.endpoint, entry.model, entry.status) == ("r-7", "videos", "veo-3", 200)
    assert (entry.video_ms, entry.cost_nusd, entry.billed) == (6000, 6 * 500_000_000, True)
    assert (sim.jobs[job_id].polls, sim.jobs[job_id].request_id) == (0, "r-7")


async def test_jobs_end_by_themselves_after_the_time_of_the_simulator(post, poll):
    sim = Simulator(org_key=KEY, job_s=0)
    await sim.start()
    await hear(await dial(sim, VEO, path=f"/v1{PATH}"))
    await sim.wait_for(lambda: len(sim.bill) == 1)
    (job,) = sim.jobs.values()
    assert (job.status, job.duration, job.resolution, sim.total_nusd) == ("completed", 4, "720p", 1_600_000_000)
    await sim.stop()


async def test_a_job_is_polled_from_queued_to_its_video(post, poll, sim):
    job_id = await submitted(post, NEVER)
    assert [(await poll(job_id))[1]["status"] for _ in range(2)] == ["queued", "processing"]
    sim.complete(job_id, duration=5, resolution="4k")
    status, done = await poll(job_id)
    assert (status, done["status"], done["duration"], done["resolution"]) == (200, "completed", 5, "4k")
    assert sim.jobs[job_id].polls == 3
    assert sim.bill[0].cost_nusd == 5 * 400_000_000
    await poll(job_id)
    assert len(sim.bill) == 1


async def test_a_job_can_be_made_to_fail_and_costs_nothing(post, poll, sim):
    job_id = await submitted(post, {"fail": True, **AT_ONCE})
    await sim.wait_for(lambda: sim.jobs[job_id].status == "failed")
    _, answer = await poll(job_id)
    assert list(answer) == ["id", "status", "model", "error"]
    assert set(answer["error"]) == {"message", "code"}
    assert (sim.bill, sim.total_nusd) == ([], 0)


async def test_what_a_job_turns_out_to_be_is_what_it_reports_and_bills(post, poll, sim):
    job_id = await submitted(post, {"actual_seconds": 2.0005, "actual_resolution": "1080p", **AT_ONCE}, duration=8)
    await sim.wait_for(lambda: len(sim.bill) == 1)
    _, answer = await poll(job_id)
    assert (answer["duration"], answer["resolution"]) == (2.0005, "1080p")
    assert (sim.bill[0].video_ms, sim.total_nusd) == (2001, 1_000_500_000)


async def test_keys_can_be_left_out_of_all_answers(post, poll, sim):
    job_id = await submitted(post, {"omit": ["duration", "estimated_wait"], **NEVER})
    assert "estimated_wait" not in (await poll(job_id))[1]
    sim.complete(job_id)
    answer = (await poll(job_id))[1]
    assert "duration" not in answer
    assert "video_url" in answer


async def test_an_unknown_job_is_a_404(poll):
    status, answer = await poll("job_vid_0")
    assert (status, answer["error"]["code"]) == (404, "job_not_found")


async def test_an_image_may_be_uploaded_linked_or_sent_as_base64(post, sim):
    form = {**VEO, "duration": "6", "resolution": "1080p", "simulate": NEVER}
    uploaded = await post(PATH, form, [("image", "photo.jpg", b"jpeg")])
    linked = await post(PATH, {**VEO, "image": "https://example.com/a.png", "simulate": NEVER})
    inline = await post(PATH, {**VEO, "image_base64": base64.b64encode(b"png").decode(), "simulate": NEVER})
    assert [answer.status for answer in (uploaded, linked, inline)] == [200] * 3
    job = sim.jobs[uploaded.json["id"]]
    assert (job.duration, job.resolution) == (6, "1080p")
    assert [(file.part, file.size_bytes) for file in sim.uploads] == [("image", 4), ("image_base64", 3)]


@pytest.mark.parametrize(
    ("more", "names"),
    [({"prompt": None}, "prompt"), ({"duration": 0}, "'duration'"), ({"duration": "long"}, "'duration'"),
     ({"duration": 4.5}, "'duration'"), ({"resolution": 720}, "'resolution'"), ({"image": 5}, "'image'")],
)  # fmt: skip
async def test_a_video_that_cannot_be_is_a_400_and_no_job(post, sim, more, names):
    assert names in (await post(PATH, {**VEO, **more})).error
    assert sim.jobs == {}


@pytest.mark.parametrize("name", ["reset_before_headers", "reset_mid_body", "truncated", "empty", "malformed_json"])
async def test_an_ambiguous_end_leaves_a_job_that_is_billed_when_it_completes(sim, name):
    heard = await hear(await dial(sim, {**VEO, "simulate": {"fault": name, **NEVER}}, path=f"/v1{PATH}"))
    assert b'"estimated_wait"' not in heard.body
    (job_id,) = sim.jobs
    assert sim.bill == []
    sim.complete(job_id)
    assert [(entry.fault, entry.billed, entry.cost_nusd) for entry in sim.bill] == [(name, True, 1_600_000_000)]


@pytest.mark.parametrize("name", ["status", "error_event"])
async def test_a_submission_that_is_refused_makes_no_job(sim, post, name):
    await post(PATH, {**VEO, "simulate": {"fault": name}})
    assert sim.jobs == {}
    assert [(entry.fault, entry.billed, entry.cost_nusd) for entry in sim.bill] == [(name, False, 0)]


async def test_a_poll_is_hit_by_faults_of_polls_alone(sim, post, poll):
    job_id = await submitted(post, NEVER)
    sim.faults.add({"fault": "status", "status": 500})
    assert (await poll(job_id))[0] == 200
    sim.faults.add({"fault": "status", "status": 503, "polls": True, "model": "veo-3", "times": 1})
    assert [(await poll(job_id))[0] for _ in range(2)] == [503, 200]
    assert (await post(PATH, VEO)).status == 500
