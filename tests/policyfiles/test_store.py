"""Reloading, with real files and the real notifier."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from oxyy_proxy.policyfiles import Loaded, PolicyInvalid, PolicyStore, load
from oxyy_proxy.policyfiles.folder import Folder
from oxyy_proxy.policyfiles.loading import load_files
from tests.policyfiles.conftest import VALID, Write, sha

WAIT_S = 10
NEVER_S = 3600.0
BROKEN = VALID["gateway.yaml"] + "drain: soon\n"


class Watched:
    """A store, and what it reported, in order."""

    def __init__(self, folder: Path, look_every_s: float = NEVER_S) -> None:
        self.reports: asyncio.Queue[Loaded | PolicyInvalid] = asyncio.Queue()
        self.store = PolicyStore(
            folder,
            load(folder),
            on_loaded=self.reports.put_nowait,
            on_failed=self.reports.put_nowait,
            look_every_s=look_every_s,
        )

    async def until(self, reached: Callable[[Loaded | PolicyInvalid], bool]) -> Loaded | PolicyInvalid:
        """The first report that is as wanted; those before it may show a folder in the middle of an edit."""
        async with asyncio.timeout(WAIT_S):
            while not reached(report := await self.reports.get()):
                pass
            return report


@asynccontextmanager
async def watching(folder: Path, look_every_s: float = NEVER_S) -> AsyncIterator[Watched]:
    watched = Watched(folder, look_every_s)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watched.store.watch())
        try:
            yield watched
        finally:
            task.cancel()


def drains(seconds: float) -> Callable[[Loaded | PolicyInvalid], bool]:
    return lambda report: isinstance(report, Loaded) and report.policy.drain_s == seconds


def failed(report: Loaded | PolicyInvalid) -> bool:
    return isinstance(report, PolicyInvalid)


async def test_an_edit_in_place_takes_effect(write: Write) -> None:
    folder = write({})
    async with watching(folder) as watched:
        before = watched.store.policy
        (folder / "gateway.yaml").write_text("drain: 5s\n")
        await watched.until(drains(5))
        assert watched.store.policy.drain_s == 5
        assert watched.store.policy.version != before.version
        assert before.drain_s == 30, "a snapshot that a request holds never changes"


async def test_every_rename_of_an_editor_takes_effect(write: Write, tmp_path: Path) -> None:
    folder = write({})
    async with watching(folder) as watched:
        for seconds in (5, 6, 7):
            (tmp_path / "new").write_text(f"drain: {seconds}s\n")
            (tmp_path / "new").rename(folder / "gateway.yaml")
            await watched.until(drains(seconds))


async def test_a_new_team_and_a_removed_one_take_effect(write: Write) -> None:
    folder = write({})
    async with watching(folder) as watched:
        other = VALID["teams/search.yaml"].replace("team: search", "team: support").replace(sha("prod"), sha("other"))
        (folder / "teams" / "support.yaml").write_text(other)
        await watched.until(
            lambda report: isinstance(report, Loaded) and set(report.policy.teams) == {"search", "support"}
        )
        (folder / "teams" / "search.yaml").unlink()
        await watched.until(lambda report: isinstance(report, Loaded) and set(report.policy.teams) == {"support"})
        assert sha("prod") not in watched.store.policy.keys


async def test_an_invalid_edit_keeps_the_last_good_policy_until_it_is_mended(write: Write) -> None:
    folder = write({})
    async with watching(folder) as watched:
        good = watched.store.policy
        (folder / "gateway.yaml").write_text(BROKEN)
        report = await watched.until(failed)
        assert isinstance(report, PolicyInvalid)
        assert str(report.errors[0]).startswith("gateway.yaml:2:8: expected a time")
        assert watched.store.failed
        assert watched.store.policy is good
        (folder / "gateway.yaml").write_text("drain: 9s\n")
        await watched.until(drains(9))
        assert not watched.store.failed


async def test_taking_an_invalid_edit_back_clears_the_failure(write: Write) -> None:
    folder = write({})
    async with watching(folder) as watched:
        (folder / "gateway.yaml").write_text(BROKEN)
        await watched.until(failed)
        (folder / "gateway.yaml").write_text(VALID["gateway.yaml"])
        await watched.until(drains(30))
        assert not watched.store.failed


def mount(folder: Path, revision: str, gateway: str) -> None:
    """Writes a revision as Kubernetes does: files under a dated folder, `..data` swapped to it in one rename."""
    for name, text in {**VALID, "gateway.yaml": gateway}.items():
        target = folder / revision / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (folder / "..data_tmp").symlink_to(revision)
    os.replace(folder / "..data_tmp", folder / "..data")
    for name in ("gateway.yaml", "models.yaml", "teams"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)


async def test_every_swap_of_a_mounted_config_map_takes_effect(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    mount(folder, "..2026_01_01", "drain: 1s\n")
    async with watching(folder) as watched:
        for seconds in (2, 3):
            mount(folder, f"..2026_01_0{seconds}", f"drain: {seconds}s\n")
            await watched.until(drains(seconds))


async def test_a_folder_that_is_a_symlink_and_is_pointed_elsewhere_takes_effect(tmp_path: Path) -> None:
    for revision, gateway in (("a", "drain: 1s\n"), ("b", "drain: 2s\n")):
        for name, text in {**VALID, "gateway.yaml": gateway}.items():
            (tmp_path / revision / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / revision / name).write_text(text)
    (tmp_path / "current").symlink_to("a")
    async with watching(tmp_path / "current") as watched:
        (tmp_path / "a" / "gateway.yaml").write_text("drain: 3s\n")
        await watched.until(drains(3))
        (tmp_path / "next").symlink_to("b")
        os.replace(tmp_path / "next", tmp_path / "current")
        await watched.until(drains(2))
        (tmp_path / "b" / "gateway.yaml").write_text("drain: 4s\n")
        await watched.until(drains(4))


async def test_a_folder_that_is_gone_for_a_while_is_followed_again(write: Write, tmp_path: Path) -> None:
    folder = write({})
    async with watching(folder, look_every_s=0.2) as watched:
        folder.rename(tmp_path / "away")
        await watched.until(failed)
        assert watched.store.policy.drain_s == 30
        (tmp_path / "away" / "gateway.yaml").write_text("drain: 4s\n")
        (tmp_path / "away").rename(folder)
        await watched.until(drains(4))


async def test_a_reload_by_hand_reports_even_when_nothing_changed(write: Write) -> None:
    folder = write({})
    watched = Watched(folder)
    await watched.store.reload()
    assert isinstance(watched.reports.get_nowait(), Loaded)
    (folder / "gateway.yaml").write_text(BROKEN)
    await watched.store.reload()
    assert isinstance(watched.reports.get_nowait(), PolicyInvalid)
    assert watched.store.failed


async def test_an_edit_during_a_load_is_not_missed(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write({})
    watched = Watched(folder)

    def edited_meanwhile(files: Folder) -> Loaded:
        monkeypatch.undo()
        (folder / "gateway.yaml").write_text("drain: 8s\n")
        return load_files(files)

    monkeypatch.setattr("oxyy_proxy.policyfiles.store.load_files", edited_meanwhile)
    await watched.store.reload()
    assert watched.store.policy.drain_s == 8
    assert watched.store.policy.version == load(folder).policy.version
    assert watched.reports.qsize() == 1, "the half-edited folder was never in force"
