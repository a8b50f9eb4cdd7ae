from __future__ import annotations

import asyncio
import calendar
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from oxyy_proxy.errors import AuthenticationFailed
from oxyy_proxy.rules.types import Key, Policy, Principal, Team
from oxyy_proxy.steps.authenticate import authenticate
from tests.rig import KEY, OTHER_KEY, Rig, team_file
from tests.steps.wires import QUESTION, ask, ask_chat


def _policy(key: str, expires_at: float | None = None) -> Policy:
    known = Key("one", sha256(key.encode("utf-8", "surrogateescape")).hexdigest(), expires_at)
    team = Team("search", "CC-1", (known,), allow=("*",))
    return Policy("v", {}, {"search": team}, {known.sha256: Principal(team, known)})


@pytest.mark.parametrize(
    "header",
    [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER {KEY}", f"Bearer   {KEY}", f"Bearer {KEY}  ", f"Bearer \t{KEY}"],
)
def test_the_scheme_may_be_in_any_case_and_spaces_do_not_matter(header: str) -> None:
    assert authenticate(_policy(KEY), header, 0.0).key.id == "one"


@pytest.mark.parametrize(
    "header",
    [
        "",
        KEY,
        "Bearer",
        "Bearer ",
        f"Bearer{KEY}",
        f"Basic {KEY}",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY.upper()}",
        f"Bearer Bearer {KEY}",
        f"Bearer {KEY} {KEY}",
        f"Bearer {sha256(KEY.encode()).hexdigest()}",
        "Bearer \udce9\udcff",
    ],
)
def test_anything_else_is_not_a_key(header: str) -> None:
    with pytest.raises(AuthenticationFailed):
        authenticate(_policy(KEY), header, 0.0)


def test_a_key_that_is_not_ascii_works() -> None:
    assert authenticate(_policy("schlüssel-\udcff"), "Bearer schlüssel-\udcff", 0.0).team.name == "search"


def test_a_key_works_until_the_very_second_it_expires() -> None:
    policy = _policy(KEY, expires_at=1000.0)
    assert authenticate(policy, f"Bearer {KEY}", 999.999).key.id == "one"
    with pytest.raises(AuthenticationFailed):
        authenticate(policy, f"Bearer {KEY}", 1000.0)


async def test_a_key_works_on_its_last_day_and_not_on_the_next(make_rig: Callable[..., Any]) -> None:
    rig = await make_rig(teams={"search": team_file().replace('"}]', '", expires: 2027-06-30}]')})
    next_day = calendar.timegm((2027, 7, 1, 0, 0, 0))
    rig.proxy.services.clock = lambda: next_day - 0.5
    assert (await ask_chat(rig)).status == 200
    rig.proxy.services.clock = lambda: float(next_day)
    refused = await ask_chat(rig)
    assert refused.error["code"] == "invalid_api_key"
    unknown = await ask(rig, QUESTION, key="nobody's")
    assert (unknown.status, unknown.body) == (refused.status, refused.body)  # nothing tells that the key was real
    assert set(unknown.headers) == set(refused.headers)
    assert len(rig.rows()) == 1


async def test_a_non_ascii_key_is_known_over_http(make_rig: Callable[..., Any]) -> None:
    rig = await make_rig(teams={"search": team_file(key="schlüssel")})
    as_sent = "schlüssel".encode().decode("latin-1")
    assert (await ask(rig, QUESTION, key=as_sent)).status == 200
    assert (await ask(rig, QUESTION, key="schl\xfcssel")).status == 401  # its latin-1 spelling is another


async def test_each_request_is_its_own_teams(make_rig: Callable[..., Any]) -> None:
    rig = await make_rig(teams={"search": team_file(), "support": team_file("support", OTHER_KEY)})
    for key in (KEY, OTHER_KEY, KEY):
        assert (await ask(rig, QUESTION, key=key)).status == 200
    found = [(row["team"], row["key_id"], row["cost_center"]) for row in rig.rows()]
    assert found == [(team, f"{team}-key", f"CC-{team}") for team in ("search", "support", "search")]


async def test_a_revoked_key_ends_with_the_reload_but_not_the_request_that_runs(rig: Rig) -> None:
    running = asyncio.create_task(ask_chat(rig, simulate={"delay_ms": 300}))
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
    rig.teams["search"] = team_file(key="another")
    rig.write_policies()
    await rig.proxy.policies.reload()
    assert (await ask_chat(rig)).status == 401
    assert (await running).status == 200
