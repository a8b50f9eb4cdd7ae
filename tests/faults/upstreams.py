"""Plays the entries whose fault is the upstream's."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.entries import Entry
from tests.faults.outcome import Answer, Outcome
from tests.faults.questions import QUESTIONS
from tests.faults.raw import RawUpstream, raw_upstream, self_signed
from tests.faults.stage import Stage, ask_once, outcome_of, stage
from tests.steps.wires import until


async def play(entry: Entry, folder: Path) -> Outcome:
    """The entry's question to an upstream that does what `do` says."""
    if "simulator" in entry.do:
        return await _simulated(entry, folder)
    if "raw" in entry.do:
        return await _raw(entry, folder)
    return await GONE[entry.do["gone"]](entry, folder)


async def _simulated(entry: Entry, folder: Path) -> Outcome:
    faults = entry.do["simulator"]
    async with stage(entry, folder) as rig:
        for fault in faults if isinstance(faults, list) else [faults]:
            rig.simulator.faults.add(_told(entry, fault))
        return await outcome_of(rig, [await ask_once(rig, entry)])


def _told(entry: Entry, fault: Mapping[str, Any]) -> dict[str, Any]:
    """The fault with the name of its model, without one where it is to hit any; and with the place that it is for."""
    model = fault.get("model", "main")
    named = {} if model == "any" else {"model": QUESTIONS[entry.endpoint].model(model)}
    place = {"after_bytes": entry.do["at"]} if "at" in entry.do else {}
    return {**{key: value for key, value in fault.items() if key != "model"}, **named, **place}


async def _raw(entry: Entry, folder: Path) -> Outcome:
    do, scripts = entry.do, list(entry.do["raw"])
    if "at" in do:
        scripts[0] = [*scripts[0][: do["at"]], do["cut"]]
    told = {name: do[name] for name in ("keep", "read") if name in do}
    async with raw_upstream(RawUpstream(scripts, **told)) as upstream, stage(entry, folder, upstream.url) as rig:
        return await _heard(rig, upstream, await _asked(rig, entry, upstream))


async def _asked(rig: Stage, entry: Entry, upstream: RawUpstream) -> list[Answer]:
    answers: list[Answer] = []
    for _ in range(entry.do.get("questions", 1)):
        answers.append(await ask_once(rig, entry))
        if entry.do.get("wait_closed"):
            await until(lambda: upstream.open == 0)
    return answers


async def _heard(rig: Stage, upstream: RawUpstream, answers: list[Answer]) -> Outcome:
    return await outcome_of(
        rig, answers, calls=upstream.calls, billed=upstream.billed, connections=upstream.connections
    )


async def _refused(entry: Entry, folder: Path) -> Outcome:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        async with stage(entry, folder, f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/v1") as rig:
            return await outcome_of(rig, [await ask_once(rig, entry)], calls=[])


async def _no_such_host(entry: Entry, folder: Path) -> Outcome:
    async with stage(entry, folder, "http://nowhere.invalid/v1") as rig:  # RFC 6761: no such name, ever
        return await outcome_of(rig, [await ask_once(rig, entry)], calls=[])


async def _untrusted(entry: Entry, folder: Path) -> Outcome:
    upstream = RawUpstream([["@json"]])
    async with raw_upstream(upstream, self_signed(folder)), stage(entry, folder, upstream.url) as rig:
        return await _heard(rig, upstream, [await ask_once(rig, entry)])


GONE = {"refused": _refused, "dns": _no_such_host, "tls": _untrusted}
