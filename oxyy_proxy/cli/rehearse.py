"""`oxyy-proxy rehearse`: what clients will see of an outage, with the policies as they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyy_proxy.cli.output import Format, print_json, print_table

if TYPE_CHECKING:
    from oxyy_proxy.cli.rehearsal import Answer, Plan, Question, Seen, Watch
    from oxyy_proxy.rules.types import Model, Policy, Price, Team

BODIES: Mapping[str, Mapping[str, object]] = {
    # As many words from every model, so that costs differ by price alone.
    "chat": {"messages": [{"role": "user", "content": "Is anybody there?"}], "simulate": {"words": 40}},
    "embeddings": {"input": "Is anybody there?"},
    "images": {"prompt": "A lighthouse"},
    "image_edits": {"prompt": "A lighthouse at night", "image": "https://example.com/lighthouse.png"},
    "transcriptions": {"file_url": "https://example.com/call.mp3"},
    "speech": {"input": "Is anybody there?", "voice": "alloy"},
}
"""What is asked of each endpoint: of a model the first that it serves. Videos are jobs, which take minutes."""

LATE_MS = 50
"""One request in a hundred may be sent this late; beyond that the machine is too slow, which must be said."""


def rehearse(
    model: Annotated[list[str], typer.Option(help="The model that is down; repeatable.")],
    fault: Annotated[str, typer.Option(help="STATUS, NAME or JSON, as `simulate --fault` takes it.")] = "503",
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long it is down: 60s, 2m, 500ms.")] = "60s",
    policies: Annotated[Path, typer.Option(help="Policy folder.", envvar="OXYY_POLICIES")] = Path("policies"),
    team: Annotated[
        str | None, typer.Option(help="Whose clients call.", show_default="the first that may call the models")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="Requests a second.")] = 20,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", help="Chat as streams, or whole.", show_default="both")
    ] = None,
    patience: Annotated[str, typer.Option(metavar="TIME", help="How long a client waits for its answer.")] = "30s",
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long all is well.", show_default="10 % of --for, 2s to 30s")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest recovery.", show_default="the breaker's open_for + 5s")
    ] = None,
    limits: Annotated[bool, typer.Option(help="Keep the team's and the organisation's limits.")] = False,
    simulator: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A running `simulate`, to be used alone; its faults are put back."),
    ] = None,
    require: Annotated[
        float | None, typer.Option(min=0, max=100, help="Exit 1 if fewer percent succeed in the outage.")
    ] = None,
    format: Annotated[Format, typer.Option(help="text for people, json for scripts.")] = Format.text,
) -> None:
    """Rehearse an outage: what clients would see of it with these policies.

    A proxy with your policies is put before a simulator of the API, and clients
    call it at a steady rate: while all is well, while the model is down, and
    until it is back. Nothing real is called; keys, policies and ledgers on disk
    are not touched. Limits are lifted unless you keep them; clients do not try
    again, as SDKs do. Ctrl-C ends it early and shows what there is.

    \b
    Examples:
      oxyy-proxy rehearse --fault 503 --model gpt-5 --for 60s --team search
      oxyy-proxy rehearse --model gpt-5 --fault hang_before_headers --stream
      oxyy-proxy rehearse --model gpt-5 --for 10s --require 99.9 --format json
    """
    import asyncio
    import gc
    import resource

    import uvloop

    from oxyy_proxy.cli.rehearsal import OUTAGE, Plan
    from oxyy_proxy.policyfiles.folder import read_folder
    from oxyy_proxy.policyfiles.loading import load_files

    outage_s = seconds(for_, "--for")
    spans = {"patience_s": seconds(patience, "--patience"), "outage_s": outage_s}
    spans["before_s"] = seconds(before, "--before") if before else min(30.0, max(2.0, outage_s / 10))
    folder = read_folder(policies)
    policy = load_files(folder).policy
    spans["after_s"] = seconds(after, "--after") if after else policy.breaker.open_for_s + 5
    names = _models(policy, model)
    asked = questions(policy, names, stream)
    written = _fault(fault, outage_s, asked)
    plan = Plan(
        folder=folder,
        policy=policy,
        team=_team(policy, names, team),
        questions=asked,
        faults=tuple({**written, "model": name} for name in names),
        prices=price_list(policy.models),
        rate=rate,
        keep_limits=limits,
        simulator=simulator and simulator.rstrip("/").removesuffix("/v1"),
        **spans,
    )
    gc.collect()
    gc.freeze()  # so that no pause for all that was imported adds to a latency
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a request is four sockets here
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(_play(plan))
    found = report(plan, seen)
    if format is Format.json:
        print_json(found)
    else:
        _print(found)
    share = found["phases"][OUTAGE]["success_percent"]
    if require is not None and (share is None or share < require):
        typer.echo(f"not met: --require {require:g}", err=True)
        raise typer.Exit(1)


def seconds(text: str, option: str) -> float:
    """A time as policies write it. Raises BadParameter."""
    from pydantic import TypeAdapter, ValidationError

    from oxyy_proxy.policyfiles.values import Span

    try:
        return TypeAdapter(Span).validate_python(int(text) if text.isdecimal() else text)
    except ValidationError as error:
        raise typer.BadParameter(str(error.errors()[0]["ctx"]["error"]), param_hint=option) from None


def _fault(text: str, outage_s: float, asked: Sequence[Question]) -> dict[str, Any]:
    """The fault in its long form, without a model. Raises BadParameter, also where it would hit nothing."""
    from oxyy_proxy.cli import simulate
    from oxyy_proxy.simulator import parse_fault

    written = simulate.fault_of(text)
    for alien in written.keys() & {"model", "polls"}:
        raise typer.BadParameter(f"leave out {alien!r}: what is down is named by --model", param_hint="--fault")
    if parse_fault(written).kind.only == "stream" and not any(question.stream for question in asked):
        raise typer.BadParameter(f"{text!r} hits streams alone, and none is asked for", param_hint="--fault")
    # The simulator shuts its port for 5 s if nothing else is said.
    return {**written, "for_s": written.get("for_s", outage_s)} if written["fault"] == "refuse" else written


def _models(policy: Policy, wanted: Sequence[str]) -> list[str]:
    """Names of models, where aliases may have been given. Raises BadParameter."""
    from oxyy_proxy.policyfiles.source import suggestion

    names = [policy.aliases.get(name, name) for name in wanted]
    for name in names:
        if name not in policy.models:
            known = suggestion(name, [*policy.models, *policy.aliases]) or f"; there are: {', '.join(policy.models)}"
            raise typer.BadParameter(f"no model {name!r} in models.yaml{known}", param_hint="--model")
    return list(dict.fromkeys(names))


def _team(policy: Policy, names: Sequence[str], wanted: str | None) -> Team:
    """A team that may call these models. Raises BadParameter."""
    from oxyy_proxy.rules.route import allowed

    if wanted is not None and wanted not in policy.teams:
        raise typer.BadParameter(f"no team {wanted!r}; there are: {', '.join(policy.teams)}", param_hint="--team")
    for name in policy.teams if wanted is None else [wanted]:
        if all(allowed(policy.teams[name], model) for model in names):
            return policy.teams[name]
    who, option = ("no team may", "--model") if wanted is None else (f"team {wanted} may not", "--team")
    raise typer.BadParameter(f"{who} call {' and '.join(names)}", param_hint=option)


def questions(policy: Policy, names: Sequence[str], stream: bool | None) -> tuple[Question, ...]:
    """What clients send in turn; chat as a stream, whole, or (None) both. Raises BadParameter."""
    import json

    from oxyy_proxy.cli.rehearsal import Question
    from oxyy_proxy.endpoints import ENDPOINTS
    from oxyy_proxy.rules.route import serves

    by_name = {endpoint.name: endpoint for endpoint in ENDPOINTS}
    asked = []
    for streamed in (False, True) if stream is None else (stream,):
        for name in names:
            endpoint = next((at for at in BODIES if serves(policy.models[name], at, by_name[at].bases)), None)
            if endpoint is None:
                message = f"{name} has no price for any of: {', '.join(BODIES)}"
                raise typer.BadParameter(message, param_hint="--model")
            flag = {"stream": True} if streamed and endpoint == "chat" else {}
            body = json.dumps({"model": name, **BODIES[endpoint], **flag}).encode()
            asked.append(Question(name, by_name[endpoint].path, body, bool(flag)))
    return tuple(dict.fromkeys(asked))


def price_list(models: Mapping[str, Model]) -> dict[str, dict[str, object]]:
    """The policy's models as a price list of the simulator, exactly."""
    return {
        name: {unit: _usd(unit, price) for unit, price in model.prices.items()} | {"endpoints": [*model.endpoints]}
        for name, model in models.items()
    }


def _usd(unit: str, price: Price) -> object:
    """USD per million, or each, from nano-USD per million."""
    from decimal import Decimal

    each = unit in ("image", "video_second", "audio_minute", "request")
    amounts = {"default": price.default, **price.variants}
    texts = {variant: f"{Decimal(amount).scaleb(-15 if each else -9):f}" for variant, amount in amounts.items()}
    return texts if price.variants else texts["default"]


async def _play(plan: Plan) -> Seen:
    """Shows how it goes; Ctrl-C ends it early."""
    import asyncio
    import signal

    from oxyy_proxy.cli.rehearsal import rehearse

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with _progress() as watch:
        return await rehearse(plan, watch, stop)


@contextmanager
def _progress() -> Iterator[Watch]:
    """On stderr: a bar for each phase on a terminal, else a line at its end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:12}"), BarColumn(), TextColumn("{task.fields[say]}"))
    bars = Progress(*columns, console=console, disable=not console.is_terminal)
    tally: Counter[tuple[str, bool]] = Counter()
    begun: dict[str, Any] = {}

    def say(phase: str) -> str:
        good, bad = tally[phase, True], tally[phase, False]
        return f"{_percent(good, good + bad):g} % of {good + bad:,} answered" if good + bad else ""

    def line() -> None:
        if begun and not console.is_terminal and (said := say([*begun][-1])):
            typer.echo(f"{[*begun][-1]}: {said}", err=True)

    def watch(phase: str, elapsed_s: float, most_s: float, answers: Sequence[Answer]) -> None:
        for answer in answers[tally.total() :]:
            tally[answer.phase, not answer.failure] += 1
        if phase not in begun:
            for task in bars.tasks:
                bars.update(task.id, completed=task.total)
            line()
            begun[phase] = bars.add_task(phase, total=most_s, say="")
        for other, task in begun.items():
            bars.update(task, completed=elapsed_s if other == phase else None, say=say(other))

    with bars:
        yield watch
        line()


def report(plan: Plan, seen: Seen) -> dict[str, Any]:
    """What `--format json` prints. `failover_s`: from the outage's beginning until requests went straight to a
    fallback; `recovery_s`: from its end until the models that were asked answered again; None: they did not."""
    from oxyy_proxy.cli.rehearsal import AFTER, BEFORE, OUTAGE, PHASES, as_before, in_a_row, settled_s

    phases: dict[str, Any] = {}
    for phase in PHASES:
        phases[phase] = _figures(seen, phase, phases.get(BEFORE))
    names, run = [fault["model"] for fault in plan.faults], in_a_row(plan.rate)
    return {
        "team": plan.team.name,
        "models": names,
        "fault": {key: value for key, value in plan.faults[0].items() if key != "model"},
        "rate": plan.rate,
        "limits": plan.keep_limits,
        "phases": phases,
        "failover_s": settled_s(seen.of(OUTAGE), lambda a: a.attempts == 1 and a.model not in ("", *names), run),
        "recovery_s": settled_s(seen.of(AFTER), as_before, run),
        "late_ms": _ms(_rank(sorted(answer.late_s for answer in seen.answers), 99)),
        "ended_early": seen.stopped,
        "verdict": verdict(phases[OUTAGE], " and ".join(map(str, names))),
    }


def _figures(seen: Seen, phase: str, base: Mapping[str, Any] | None) -> dict[str, Any]:
    """One phase, beside the first one; None where there is nothing to count."""
    from oxyy_proxy.rules.price import usd

    answers = seen.of(phase)
    good = [answer for answer in answers if not answer.failure]
    waits = sorted(answer.took_s for answer in answers)
    latency = {f"p{percent}": _ms(_rank(waits, percent)) for percent in (50, 95, 99)} if waits else {}
    cost, unresolved = seen.spend.get(phase, (0, 0))
    each = usd(cost * 1000 // len(good)) if good else None
    compared = base if base and base["requests"] else None
    each_before = float(compared["usd_per_1000_answers"] or 0) if compared else 0.0
    return {
        "seconds": round(seen.seconds.get(phase, 0), 3),
        "requests": len(answers),
        "succeeded": len(good),
        "success_percent": _percent(len(good), len(answers)) if answers else None,
        "answers": dict(Counter(answer.failure or str(answer.status) for answer in answers).most_common()),
        "latency_ms": latency,
        "added_ms": {k: round(v - compared["latency_ms"][k], 1) for k, v in latency.items()} if compared else None,
        "answered_by": dict(Counter(answer.model for answer in good).most_common()),
        "upstream_calls": {model: calls for (of, model), calls in seen.calls.most_common() if of == phase},
        "retries": sum(max(0, answer.attempts - 1) for answer in answers),
        "cost_usd": usd(cost),
        "unresolved_usd": usd(unresolved),
        "usd_per_1000_answers": each,
        "cost_percent": round(100 * float(each) / each_before, 1) if each and each_before else None,
    }


def _percent(part: int, whole: int) -> float:
    """Rounded down: what is not all is not 100."""
    return math.floor(10_000 * part / whole) / 100


def _rank(ordered: Sequence[float], percent: int) -> float:
    """The value that so many percent do not exceed; 0 if there is none."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else 0.0


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def verdict(outage: Mapping[str, Any], models: str) -> str:
    """The outage in one sentence."""
    count = outage["requests"]
    if not count:
        return "It ended before the outage began."
    said = f"{outage['success_percent']:g} % of {count:,} clients were answered while {models} was down"
    for model, answers in [*outage["answered_by"].items()][:1]:
        said += f"; {model} answered {_percent(answers, outage['succeeded']):g} % of them"
    if outage["added_ms"] and outage["succeeded"]:
        said += f"; {outage['added_ms']['p50']:+,g} ms p50"
    if outage["cost_percent"] is not None:
        said += f"; an answer cost {outage['cost_percent']:g} % of what it costs otherwise"
    worst = [failure for failure in outage["answers"] if failure != "200"]
    return (
        f"{said}; most of {'the others' if outage['succeeded'] else 'them'} got: {worst[0]}." if worst else f"{said}."
    )


def _print(found: Mapping[str, Any]) -> None:
    phases: Mapping[str, Any] = found["phases"]
    fault = " ".join(map(str, found["fault"].values()))
    typer.echo(f"Clients of team {found['team']} at {found['rate']:g} requests/s. The outage: {fault}.\n")

    def row(name: str, cell: Callable[[Any], object]) -> list[object]:
        return [name, *(cell(phase) if phase["requests"] else "" for phase in phases.values())]

    def rows(name: str, key: str) -> list[list[object]]:
        kinds = dict.fromkeys(kind for phase in phases.values() for kind in phase[key])
        return [row(f"{name} {kind}", lambda p, kind=kind: f"{p[key].get(kind, 0):,}") for kind in kinds]  # type: ignore[misc]

    def wait(percent: str) -> list[object]:
        def cell(phase: Any) -> str:
            added = phase["added_ms"]
            return f"{phase['latency_ms'][percent]:,}" + (f" ({added[percent]:+,})" if added else "")

        return row(f"{percent} (added), ms", cell)

    def each(phase: Any) -> str:
        share = phase["cost_percent"]
        return (phase["usd_per_1000_answers"] or "") + ("" if share is None else f" ({share:g} %)")

    table = [
        row("requests", lambda p: f"{p['requests']:,}"),
        row("answered", lambda p: f"{p['success_percent']:g} %"),
        *rows("got", "answers"),
        *map(wait, ("p50", "p95", "p99")),
        *rows("answered by", "answered_by"),
        *rows("calls to", "upstream_calls"),
        row("retries and fallbacks", lambda p: f"{p['retries']:,}"),
        row("cost, USD", lambda p: p["cost_usd"]),
        row("of unknown outcome, USD", lambda p: p["unresolved_usd"]),
        row("USD per 1,000 answers", each),
    ]
    print_table(["", *(f"{name}, {round(phase['seconds'], 1):g} s" for name, phase in phases.items())], table, left=1)
    failover, recovery, models = found["failover_s"], found["recovery_s"], " and ".join(found["models"])
    straight = "never" if failover is None else f"{failover:g} s after the outage began"
    again = "not before the end" if recovery is None else f"{recovery:g} s after the outage ended"
    typer.echo(f"\nRequests went straight to a fallback: {straight}. {models} answered as before: {again}.")
    if found["late_ms"] > LATE_MS:
        typer.echo(f"This machine is too slow for the load: requests were sent up to {found['late_ms']:g} ms late.")
    typer.echo(f"{'' if found['limits'] else 'Limits were lifted. '}Clients did not try again, as SDKs do.")
    typer.echo(f"\n{found['verdict']}")
