"""Which files are read, and which of them are missing or too many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oxyy_proxy.policyfiles import folder as module
from oxyy_proxy.policyfiles import load
from oxyy_proxy.policyfiles.folder import read_folder
from tests.policyfiles.conftest import MODELS, TEAM, VALID, Write, errors, sha


def test_every_policy_file_is_read_and_nothing_else(write: Write) -> None:
    folder = write({})
    for name in (
        "README.md",
        ".hidden.yaml",
        "gateway.yaml~",
        "#gateway.yaml#",
        "teams/.x.yaml.swp",
        "teams/notes.txt",
    ):
        (folder / name).write_text("not a policy")
    (folder / "archive").mkdir()
    (folder / "archive" / "old.yaml").write_text("not a policy")
    found = read_folder(folder)
    assert found.files == {name: text.encode() for name, text in VALID.items()}
    assert (found.path, found.problems, found.teams()) == (folder, (), ["teams/search.yaml"])


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_either_suffix_will_do(write: Write, suffix: str) -> None:
    names = ("gateway", "models", "teams/search")
    folder = write(dict.fromkeys(VALID))
    for name in names:
        (folder / f"{name}.{suffix}").write_text(VALID[f"{name}.yaml"])
    found = read_folder(folder)
    assert [found.named("gateway"), found.named("models"), *found.teams()] == [f"{name}.{suffix}" for name in names]
    assert found.named("teams") is None
    assert set(load(folder).policy.teams) == {"search"}


def test_teams_come_in_the_order_of_their_names(write: Write) -> None:
    others = {f"teams/{name}.yaml": "" for name in ("zoo", "b-team", "a-team")}
    expected = [f"teams/{name}.yaml" for name in ("a-team", "b-team", "search", "zoo")]
    assert read_folder(write(others)).teams() == expected


def test_a_file_larger_than_any_policy_is_not_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    assert read_folder(write({"gateway.yaml": "#" * 1000})).problems == ()
    folder = write({"gateway.yaml": "#" * 1001})
    assert errors(folder) == ["gateway.yaml:1:1: cannot be read: larger than 1000 bytes"]


def test_a_team_written_twice_is_not_chosen_between(write: Write) -> None:
    expected = ["teams/search.yml:1:1: stands beside teams/search.yaml; keep one of the two"]
    assert [str(problem) for problem in read_folder(write({"teams/search.yml": TEAM})).problems] == expected


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(write: Write) -> None:
    folder = write({"models.yaml": None})
    os.mkfifo(folder / "models.yaml")
    assert errors(folder) == ["models.yaml:1:1: cannot be read: not a regular file"]


def test_a_file_in_the_place_of_the_teams_is_an_error(write: Write) -> None:
    folder = write({"teams/search.yaml": None})
    (folder / "teams").rmdir()
    (folder / "teams").write_text("version: 1\n")
    assert errors(folder)[0].startswith("teams/:1:1: cannot be read: ")


def test_what_moves_from_one_file_to_another_is_another_version(write: Write) -> None:
    other = TEAM.replace("team: search", "team: b").replace(sha("prod"), sha("b"))
    versions = {
        read_folder(write(changes)).version
        for changes in (
            {},
            {"gateway.yaml": VALID["gateway.yaml"] + "#", "models.yaml": MODELS},
            {"gateway.yaml": VALID["gateway.yaml"], "models.yaml": "#" + MODELS},
            {"models.yaml": MODELS, "teams/b.yaml": other},
        )
    }
    assert len(versions) == 4


def test_what_cannot_be_read_is_part_of_the_version(write: Write) -> None:
    folder = write({})
    (folder / "models.yaml").unlink()
    missing = read_folder(folder).version
    (folder / "models.yaml").mkdir()
    assert read_folder(folder).version != missing


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"gateway.yaml": None}, ["gateway.yaml:1:1: the file is missing"]),
        ({"models.yaml": None}, ["models.yaml:1:1: the file is missing"]),
        (
            {"teams/search.yaml": None},
            ["teams/:1:1: no team file in it; expected one file per team, such as teams/search.yaml"],
        ),
        (
            {"extra.yaml": "a: 1"},
            ["extra.yaml:1:1: unexpected file; allowed here: gateway.yaml, models.yaml and the folder teams/"],
        ),
        ({"gateway.yml": "version: 1"}, ["gateway.yml:1:1: stands beside gateway.yaml; keep one of the two"]),
    ],
)
def test_files_that_are_missing_or_too_many(write: Write, changes: dict[str, str | None], expected: list[str]) -> None:
    assert errors(write(changes)) == expected


def test_no_folder_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    missing = tmp_path / "nope"
    expected = f"{missing}:1:1: no such folder; expected one with gateway.yaml, models.yaml and teams/"
    assert errors(missing) == [expected]


def test_no_teams_folder_is_an_error(write: Write) -> None:
    folder = write({"teams/search.yaml": None})
    (folder / "teams").rmdir()
    expected = "teams/:1:1: the folder is missing; expected one file per team, such as teams/search.yaml"
    assert errors(folder) == [expected]


def test_what_cannot_be_read_is_an_error_of_that_file(write: Write) -> None:
    folder = write({"gateway.yaml": None, "models.yaml": None})
    (folder / "gateway.yaml").mkdir()
    (folder / "models.yaml").symlink_to(folder / "gone.yaml")
    assert errors(folder) == [
        "gateway.yaml:1:1: cannot be read: not a regular file",
        "models.yaml:1:1: cannot be read: No such file or directory",
    ]


def test_a_name_that_cannot_be_printed_is_an_error_that_can(write: Write) -> None:
    folder = write({})
    (folder / "teams" / os.fsdecode(b"\xff.yaml")).write_text(TEAM)
    assert errors(folder) == ["teams/'\\udcff.yaml':1:1: a file's name must be printable UTF-8"]


def test_the_version_follows_names_and_bytes_and_nothing_else(write: Write) -> None:
    folder = write({})
    first = load(folder).policy.version
    (folder / "README.md").write_text("not a policy")
    (folder / "teams" / ".#search.yaml").write_text("a lock of an editor")
    (folder / "teams" / "search.yaml~").write_text("a backup")
    assert load(folder).policy.version == first
    assert len(first) == 12
    (folder / "gateway.yaml").write_text("version: 1 \n")
    second = load(folder).policy.version
    (folder / "gateway.yaml").rename(folder / "gateway.yml")
    assert len({first, second, load(folder).policy.version}) == 3
