"""The routes outside the API, under `/-/`: the bill, the faults, the video jobs, and whether it is alive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from .faults import FaultError, parse_fault, starts_at_once
from .jobs import ENDED, JobError

if TYPE_CHECKING:
    from .server import Simulator

JOB = "/-/jobs/{id}"

Control = Callable[["Simulator", web.BaseRequest], Awaitable[web.StreamResponse]]


async def get_bill(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """`{"entries": [...], "total_nusd"}`, of the entries after `?since_seq=`."""
    since = request.query.get("since_seq", "0")
    if not since.isdecimal():
        return _refused("since_seq must be a whole number: the seq of the last entry already seen")
    return _json(sim.ledger.as_json(int(since)))


async def delete_bill(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """Starts with an empty bill."""
    sim.ledger.clear()
    return _json(sim.ledger.as_json())


async def get_faults(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """`{"faults": [...]}` as they were written, with the `times` that are left."""
    return _json({"faults": sim.faults.as_json()})


async def put_faults(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """One fault or a list of them, in place of all others."""
    try:
        written = orjson.loads(await request.content.read())
        faults = [parse_fault(one) for one in (written if isinstance(written, list) else [written])]
    except orjson.JSONDecodeError as error:
        return _refused(f"the body must be JSON, a fault or a list of faults: {error}")
    except FaultError as error:
        return _refused(str(error))
    if not any(starts_at_once(fault) for fault in faults):
        sim.faults.replace(faults)
        return _json({"faults": sim.faults.as_json()})
    # An outage drops every connection, this one too: so the answer goes out before it begins.
    answer = _json({"faults": [fault.as_json() for fault in faults]})
    answer.force_close()
    await answer.prepare(request)
    await answer.write_eof()
    if request.transport is not None:
        request.transport.close()
    sim.faults.replace(faults)
    return answer


async def delete_faults(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """No faults any more."""
    sim.faults.clear()
    return _json({"faults": []})


async def get_jobs(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """`{"jobs": [...]}`, all of them, the oldest first."""
    return _json({"jobs": [job.as_json() for job in sim.jobs.values()]})


async def put_job(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """Ends a job that runs: `{"status": "completed"|"failed", "duration"?, "resolution"?}`. Answers the job."""
    try:
        wanted = orjson.loads(await request.content.read())
    except orjson.JSONDecodeError as error:
        return _refused(f"the body must be JSON: {error}")
    if not isinstance(wanted, dict) or wanted.get("status") not in ENDED:
        return _refused(f'the body must be an object with a "status", one of: {", ".join(ENDED)}')
    duration, resolution = wanted.get("duration"), wanted.get("resolution")
    if duration is not None and (isinstance(duration, bool) or not isinstance(duration, int | float) or duration < 0):
        return _refused("duration must be a number of seconds, 0 or more")
    if resolution is not None and not isinstance(resolution, str):
        return _refused("resolution must be a text such as 1080p")
    job_id = request.path.removeprefix(JOB.removesuffix("{id}"))
    try:
        if wanted["status"] == "completed":
            sim.complete(job_id, duration, resolution)
        else:
            sim.fail(job_id)
    except JobError as error:
        return _refused(str(error), error.status)
    return _json(sim.jobs[job_id].as_json())


async def get_healthz(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """`{"status": "ok", "in_flight"}`."""
    return _json({"status": "ok", "in_flight": sim.in_flight})


CONTROLS: Mapping[str, Mapping[str, Control]] = {
    "/-/bill": {"GET": get_bill, "DELETE": delete_bill},
    "/-/faults": {"GET": get_faults, "PUT": put_faults, "DELETE": delete_faults},
    "/-/jobs": {"GET": get_jobs},
    JOB: {"PUT": put_job},
    "/-/healthz": {"GET": get_healthz},
}


async def control(sim: Simulator, request: web.BaseRequest) -> web.StreamResponse:
    """Answers a request under `/-/`."""
    one_job = request.path.startswith(JOB.removesuffix("{id}"))
    methods = CONTROLS.get(JOB if one_job else request.path)
    if methods is None:
        return _refused(f"no control route {request.path}; there are: {', '.join(CONTROLS)}", 404)
    handler = methods.get(request.method)
    if handler is None:
        return _refused(f"{request.path} takes {', '.join(methods)}, not {request.method}", 405)
    return await handler(sim, request)


def _json(payload: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(payload) + b"\n", status=status, content_type="application/json")


def _refused(message: str, status: int = 400) -> web.Response:
    return _json({"error": {"message": message}}, status)
