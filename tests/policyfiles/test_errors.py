"""What is wrong with a folder, and the exact place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oxyy_proxy.errors import StartupError
from oxyy_proxy.policyfiles import Finding, PolicyInvalid, load
from tests.policyfiles.conftest import VALID, Write, sha

MODELS, TEAM = VALID["models.yaml"], VALID["teams/search.yaml"]
UNITS = (
    "input, cached_input, output, audio_input, audio_output, image_input, image_output, character, image, "
    "video_second, audio_minute, request"
)
SPAN = "expected a time such as 500ms, 60s, 10m or 2h, above 0 and at most 7 days"
KEY = "expected the SHA-256 of the key, 64 hex digits in quotes; 'oxyy-proxy keys new ID' prints it"


def errors(folder: Path) -> list[str]:
    with pytest.raises(PolicyInvalid) as caught:
        load(folder)
    return [str(error) for error in caught.value.errors]


def warnings(folder: Path) -> list[str]:
    return [str(warning) for warning in load(folder).warnings]


GATEWAY_ERRORS = [
    ("version: 2", "1:10: expected 1, the only version of this file there is, got 2"),
    ("version: true", "1:10: expected 1, the only version of this file there is, got true"),
    ("- a list", "1:1: expected a mapping, got a list"),
    ("version: 1\ndrain: -1s", f"2:8: {SPAN.replace('above', 'from')}, got '-1s'"),
    ("drain: .inf", f"1:8: {SPAN.replace('above', 'from')}, got '.inf'"),
    ("retry: {idle: 0}", f"1:15: {SPAN}, got 0"),
    ("retry: {idle: 5 s}", f"1:15: {SPAN}, got '5 s'"),
    ("retry: {idle: 1e999}", f"1:15: {SPAN}, got 1E+999"),
    ("retry: {attempts: true}", "1:19: expected a whole number from 1 to 20, got true"),
    ("retry: {attempts: '3'}", "1:19: expected a whole number from 1 to 20, got the text '3'"),
    ("retry: {attempts: 3.0}", "1:19: expected a whole number from 1 to 20, got 3.0"),
    ("retry: {on: [200]}", "1:14: expected an HTTP status from 400 to 599, got 200"),
    ("retry: {on: []}", "1:13: expected at least one item, got an empty list"),
    ("retry: {on: 500}", "1:13: expected a list, got 500"),
    ("retry:", "1:7: expected a value, got nothing; to leave the field out, delete its name too"),
    ("retry: 5", "1:8: expected a mapping, got 5"),
    (
        "retry: {idel: 5s}",
        "1:9: unknown field 'idel'; allowed: on, attempts, deadline, first_byte, answer, idle, budget_percent; "
        "did you mean 'idle'?",
    ),
    ("on_disconnect: drian", "1:16: expected one of drain, cancel; got 'drian'; did you mean 'drain'?"),
    ("timezone: Mars/Phobos", "1:11: unknown time zone 'Mars/Phobos'; expected a name such as UTC or Europe/Berlin"),
    ("timezone: ../../etc", "1:11: unknown time zone '../../etc'; expected a name such as UTC or Europe/Berlin"),
    ("timezone: 3", "1:11: expected text on one line, got 3; put it in quotes"),
    ("timezone: {a: b}", "1:11: expected text on one line, got a mapping"),
    (
        "limits: [{meter: usd, per: month, cap: 5, key: prod}]",
        "1:43: a limit of the organisation has no 'key'; limit the key in its team's file",
    ),
    ("timezone: UTC\ntimezone: UTC", "2:1: 'timezone' is given twice, first in line 1"),
    ("? [a]\n: 1", "1:3: a key must be text"),
    ("version: !!python/name:os.system 1", "1:10: the tag tag:yaml.org,2002:python/name:os.system is not allowed"),
    ("limits: *nowhere", "1:9: not valid YAML: found undefined alias 'nowhere'"),
    (
        "version: 1\n\tdrain: 5s",
        "2:1: not valid YAML: while scanning for the next token, found character '\\t' that cannot start any token",
    ),
    (
        "version: 1\n---\nversion: 1",
        "2:1: not valid YAML: expected a single document in the stream, but found another document",
    ),
    ("drain: \x07", "1:8: character 7 is not allowed in YAML"),
    ("&a\nlimits: *a", "1:1: an anchor contains an alias of itself"),
]


@pytest.mark.parametrize(("text", "expected"), GATEWAY_ERRORS)
def test_errors_in_the_gateway_name_their_place(write: Write, text: str, expected: str) -> None:
    assert f"gateway.yaml:{expected}" in errors(write({"gateway.yaml": text}))


MODEL_ERRORS = [
    ("version: 1", "1:1: the field 'models' is missing"),
    ("models:\n  gpt-5:\n    price: {input: 1, output: 2}\n", "2:3: the field 'endpoints' is missing"),
    (
        "models:\n  gpt-5: {endpoints: [chats]}",
        "2:23: expected one of chat, embeddings, images, image_edits, videos, transcriptions, speech; got 'chats'; "
        "did you mean 'chat'?",
    ),
    ("models: {gpt-5: {endpoints: []}}", "1:29: expected at least one item, got an empty list"),
    (
        "models: {'gpt 5': {endpoints: [chat]}}",
        "1:10: expected a model's name, without blanks, commas, *, ? or brackets, got 'gpt 5'",
    ),
    (
        "models: {a: {endpoints: [chat], price: {inptu: 1}}}",
        f"1:41: unknown field 'inptu'; allowed: {UNITS}; did you mean 'input'?",
    ),
    (
        "models: {a: {endpoints: [chat], price: {input: -1}}}",
        "1:48: expected a price in USD from 0 to 1000000 with at most 9 decimals, got -1",
    ),
    ("models: {a: {endpoints: [chat], price: {input: '1'}}}", "1:48: expected a number, got the text '1'"),
    (
        "models: {a: {endpoints: [chat], price: {input: }}}",
        "1:47: expected a value, got nothing; to leave the field out, delete its name too",
    ),
    ("models: {a: {endpoints: [chat], price: {input: .nan}}}", "1:48: expected a number, got the text '.nan'"),
    (
        "models: {a: {endpoints: [chat], price: {input: 0.0000000001}}}",
        "1:48: expected a price in USD from 0 to 1000000 with at most 9 decimals, got 1E-10",
    ),
    (
        "models: {a: {endpoints: [chat], price: {input: 1e-999999999}}}",
        "1:48: expected a price in USD from 0 to 1000000 with at most 9 decimals, got 1E-999999999",
    ),
    (
        "models: {a: {endpoints: [images], price: {image: {hd: 1}}}}",
        "1:50: the field 'default' is missing: the price where no variant fits",
    ),
    (
        "models: {a: {endpoints: [images], price: {image: {default: 1, hd: x}}}}",
        "1:67: expected a number, got the text 'x'",
    ),
    (
        "models: {a: {endpoints: [chat], max_output_tokens: 0}}",
        "1:52: expected a whole number from 1 to 1000000000000000, got 0",
    ),
    (MODELS + "part_tokens: {video: 1}", "7:15: unknown field 'video'; allowed: image, audio, file"),
    (MODELS + "default_models: {chat: gpt-6}", "7:24: unknown model 'gpt-6'; did you mean 'gpt-5'?"),
    (MODELS + "default_models: {chat: fast}", "7:24: unknown model 'fast'; it is an alias, name 'gpt-5-mini'"),
    (MODELS + "default_models: {chat: ada}", "7:24: 'ada' does not serve chat; it serves embeddings"),
    (
        MODELS + "default_models: {chats: gpt-5}",
        "7:18: expected one of chat, embeddings, images, image_edits, videos, transcriptions, speech; got 'chats'; "
        "did you mean 'chat'?",
    ),
    (MODELS.replace("fast:", "gpt-5:"), "6:11: the alias 'gpt-5' is also the name of a model"),
    (MODELS.replace("fast: gpt-5-mini", "fast: zzz"), "6:17: unknown model 'zzz'"),
    (MODELS.replace("output: 10}", "output: 10}, fallbacks: [gpt-5-mini, nope]"), "3:88: unknown model 'nope'"),
    (
        MODELS.replace("output: 10}", "output: 10}, fallbacks: [gpt-5]"),
        "3:76: 'gpt-5' stands twice in the chain of 'gpt-5'",
    ),
    (
        MODELS.replace("output: 10}", "output: 10}, fallbacks: [gpt-5-mini, gpt-5-mini]"),
        "3:88: 'gpt-5-mini' stands twice in the chain of 'gpt-5'",
    ),
]


@pytest.mark.parametrize(("text", "expected"), MODEL_ERRORS)
def test_errors_in_the_models_name_their_place(write: Write, text: str, expected: str) -> None:
    assert f"models.yaml:{expected}" in errors(write({"models.yaml": text}))


def limits(*limits: str) -> str:
    return TEAM + "limits:\n" + "".join(f"  - {{{limit}}}\n" for limit in limits)


TEAM_ERRORS = [
    (TEAM.replace("team: search", "team: serach"), "2:7: expected 'search', as the file is called, got 'serach'"),
    (TEAM.replace("team: search\n", ""), "1:1: the field 'team' is missing"),
    (
        TEAM.replace("team: search", "taem: search"),
        "2:1: unknown field 'taem'; allowed: version, team, cost_center, keys, models, limits, fallbacks, mode; "
        "did you mean 'team'?",
    ),
    (TEAM.replace("{allow: [gpt-5]}", "{}"), "5:1: the field 'allow' is missing"),
    (TEAM.replace("{allow: [gpt-5]}", "[gpt-5]"), "5:9: expected a mapping, got a list"),
    (TEAM.replace("[gpt-5]", "gpt-5"), "5:17: expected a list, got 'gpt-5'"),
    (
        TEAM.replace("[gpt-5]", "['gpt 5']"),
        "5:18: expected a model's name or pattern, without blanks or commas, got 'gpt 5'",
    ),
    (TEAM + "mode: shadow", "6:7: mode: shadow is not available in this version; allowed: enforce"),
    (TEAM + "mode: on", "6:7: expected enforce, got 'on'"),
    (TEAM + "cost_center: 1042", "6:14: expected text on one line, got 1042; put it in quotes"),
    (TEAM + "fallbacks: {gpt-6: []}", "6:13: unknown model 'gpt-6'; did you mean 'gpt-5'?"),
    (TEAM + "fallbacks: {gpt-5: [nope]}", "6:21: unknown model 'nope'"),
    (
        TEAM.replace("id: prod", "id: pr/od"),
        "4:10: expected a name of letters, digits, '.', '_' and '-', at most 64, got 'pr/od'",
    ),
    (TEAM.replace(sha("prod"), "ok_search_secret"), f"4:24: {KEY}"),
    (
        TEAM.replace("}\nmodels", ", expires: 2027-02-30}\nmodels"),
        "4:101: expected a date such as 2027-06-30, got '2027-02-30'",
    ),
    (
        TEAM.replace("}\nmodels", ", expires: 2027-06-30 10:00:00}\nmodels"),
        "4:101: expected a date such as 2027-06-30, got '2027-06-30 10:00:00'",
    ),
    (
        TEAM.replace("\nmodels", f'\n  - {{id: prod, sha256: "{sha("b")}"}}\nmodels'),
        "5:10: the key id 'prod' is already used in teams/search.yaml:4",
    ),
    (
        TEAM.replace("\nmodels", f'\n  - {{id: b, sha256: "{sha("prod").upper()}"}}\nmodels'),
        "5:21: the same key as in teams/search.yaml:4; every key belongs to one team",
    ),
    (limits("meter: usd, per: day, cap: '5'"), "7:33: expected a number, got the text '5'"),
    (
        limits("meter: usd, per: day, cap: -1"),
        "7:33: expected an amount of USD from 0 to 1000000000 with at most 9 decimals, got -1",
    ),
    (
        limits("meter: usd, per: day, cap: 0.0000000001"),
        "7:33: expected an amount of USD from 0 to 1000000000 with at most 9 decimals, got 1E-10",
    ),
    (
        limits("meter: tokens, per: day, cap: 1.5"),
        "7:36: expected a whole number of tokens from 0 to 1000000000000000, got 1.5",
    ),
    (limits("meter: usd, per: day"), "7:5: the field 'cap' is missing"),
    (limits("meter: usd, per: week, cap: 1"), "7:23: expected one of minute, hour, day, month; got 'week'"),
    (limits("meter: usd, cap: 1"), "7:5: the field 'per' is missing; expected one of minute, hour, day, month"),
    (
        limits("meter: concurrent, per: day, cap: 1"),
        "7:25: a concurrent limit has no 'per': it counts what is in flight",
    ),
    (limits("meter: usd, per: day, cap: 1, key: dev"), "7:41: 'dev' is not a key of this team; allowed: prod"),
    (limits("meter: usd, per: day, cap: 1, models: []"), "7:44: expected at least one item, got an empty list"),
    (
        limits("meter: usd, per: day, cap: 1, models: "),
        "7:43: expected a value, got nothing; to leave the field out, delete its name too",
    ),
    (
        limits("meter: usd, per: day, cap: 1, timezone: Nope"),
        "7:46: unknown time zone 'Nope'; expected a name such as UTC or Europe/Berlin",
    ),
    (
        limits("meter: usd, per: day, cap: 1", "meter: concurrent, cap: 1", "per: day, meter: usd, cap: 2"),
        "9:5: the same limit as in teams/search.yaml:7, 'search usd/day'; keep one of the two",
    ),
]


@pytest.mark.parametrize(("text", "expected"), TEAM_ERRORS)
def test_errors_in_a_team_name_their_place(write: Write, text: str, expected: str) -> None:
    assert f"teams/search.yaml:{expected}" in errors(write({"teams/search.yaml": text}))


@pytest.mark.parametrize("name", list(VALID))
def test_a_single_mistake_is_a_single_error(write: Write, name: str) -> None:
    table = {"gateway.yaml": GATEWAY_ERRORS, "models.yaml": MODEL_ERRORS, "teams/search.yaml": TEAM_ERRORS}[name]
    several = [text for text, _ in table if len(errors(write({name: text}))) > 1]
    assert several == [TEAM.replace("team: search", "taem: search")] * (name == "teams/search.yaml")


def test_a_pasted_key_is_never_quoted(write: Write) -> None:
    text = TEAM.replace(sha("prod"), "ok_search_secret")
    assert "secret" not in " ".join(errors(write({"teams/search.yaml": text})))


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


def test_bytes_that_are_not_utf_8_are_an_error_with_their_place(write: Write) -> None:
    folder = write({})
    (folder / "gateway.yaml").write_bytes("version: 1\n# ä".encode("latin-1"))
    assert errors(folder) == ["gateway.yaml:2:3: not UTF-8: unexpected end of data"]


@pytest.mark.parametrize("depth", [40, 3_000])
def test_deep_nesting_is_an_error(write: Write, depth: int) -> None:
    (error,) = errors(write({"gateway.yaml": "a: " + "[" * depth + "]" * depth}))
    assert error.startswith("gateway.yaml:1:")
    assert error.endswith("nested deeper than 32 levels")


def test_a_few_lines_cannot_stand_for_billions_of_values(write: Write) -> None:
    lines = ["a0: &a0 [1, 1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (error,) = errors(write({"gateway.yaml": "\n".join(lines)}))
    assert error.endswith("more than 200000 values in one file, aliases expanded")


def test_anchors_cannot_nest_without_end(write: Write) -> None:
    lines = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000)]
    assert "nested deeper than 32 levels" in errors(write({"gateway.yaml": "\n".join(lines)}))[0]


def test_a_key_belongs_to_one_team_alone(write: Write) -> None:
    other = TEAM.replace("team: search", "team: support")
    expected = "teams/support.yaml:4:24: the same key as in teams/search.yaml:4; every key belongs to one team"
    assert errors(write({"teams/support.yaml": other})) == [expected]


def test_no_team_is_called_as_the_organisation(write: Write) -> None:
    other = TEAM.replace("team: search", "team: organisation").replace(sha("prod"), sha("other"))
    (error,) = errors(write({"teams/organisation.yaml": other}))
    assert error.startswith("teams/organisation.yaml:2:7: 'organisation' is what limits of gateway.yaml are called")


def test_all_errors_of_all_files_come_at_once(write: Write) -> None:
    folder = write(
        {
            "gateway.yaml": "drain: x\nlimits:\n  - {meter: usdd, per: day, cap: 1}\n  - {meter: usd, cap: 1}\n",
            "models.yaml": MODELS.replace("1.25", "-1").replace("fast: gpt-5-mini", "fast: nope"),
            "teams/search.yaml": TEAM.replace("version: 1", "versoin: 1") + "fallbacks: {gpt-6: []}\n",
        }
    )
    assert [":".join(error.split(":")[:3]) for error in errors(folder)] == [
        "gateway.yaml:1:8",
        "gateway.yaml:3:13",
        "gateway.yaml:4:5",
        "models.yaml:3:45",
        "models.yaml:6:17",
        "teams/search.yaml:1:1",
        "teams/search.yaml:6:13",
    ]


def test_a_broken_models_file_does_not_drown_the_other_files_in_errors(write: Write) -> None:
    (error,) = errors(write({"models.yaml": "models: [", "teams/search.yaml": TEAM + "fallbacks: {gpt-5: [ada]}"}))
    assert error.startswith("models.yaml:1:10: not valid YAML")


def test_a_price_that_is_wrong_is_not_called_missing_too(write: Write) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        load(write({"models.yaml": MODELS.replace("1.25", "-1")}))
    assert caught.value.warnings == ()


def test_the_exception_is_one_line_that_names_the_first_error_and_the_next_step(write: Write) -> None:
    folder = write({"gateway.yaml": "drain: x\nversion: 3\n"})
    with pytest.raises(StartupError) as caught:
        load(folder)
    expected = (
        f"gateway.yaml:1:8: {SPAN.replace('above', 'from')}, got 'x', and 1 more; run 'oxyy-proxy check {folder}'"
    )
    assert str(caught.value) == expected


def test_a_finding_reads_as_compilers_write_them() -> None:
    assert str(Finding("teams/search.yaml", 7, 3, "message")) == "teams/search.yaml:7:3: message"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"teams/search.yaml": TEAM.replace("[gpt-5]", "[gpt-5, gtp-5, fast]")},
            [
                "teams/search.yaml:5:25: 'gtp-5' matches no model of models.yaml; did you mean 'gpt-5'?",
                "teams/search.yaml:5:32: 'fast' matches no model of models.yaml; 'fast' is an alias, name 'gpt-5-mini'",
            ],
        ),
        (
            {"teams/search.yaml": limits("meter: usd, per: day, cap: 1, models: ['veo-*', 'ad*']")},
            ["teams/search.yaml:7:45: 'veo-*' matches no model of models.yaml"],
        ),
        (
            {"gateway.yaml": "limits: [{meter: usd, per: day, cap: 1, models: ['GPT-5']}]"},
            ["gateway.yaml:1:50: 'GPT-5' matches no model of models.yaml"],
        ),
        (
            {"models.yaml": MODELS.replace(", output: 10", "").replace(", price: {input: 0.1}", "")},
            [
                "models.yaml:3:30: 'gpt-5' has no price for output: "
                "chat requests will be refused with model_not_priced",
                "models.yaml:5:3: 'ada' has no price for input: "
                "embeddings requests will be refused with model_not_priced",
            ],
        ),
        (
            {"models.yaml": MODELS.replace("output: 10", "output: {default: 10, hd: 11}")},
            ["models.yaml:3:51: variants of output have no effect: only its default counts"],
        ),
        (
            {"models.yaml": MODELS.replace("output: 10}", "output: 10}, fallbacks: [ada]")},
            ["models.yaml:3:76: 'ada' is never used here: it does not serve chat as 'gpt-5' does"],
        ),
        (
            {"teams/search.yaml": TEAM + "fallbacks: {gpt-5: [gpt-5-mini]}"},
            ["teams/search.yaml:6:21: 'gpt-5-mini' is never used here: the team may not call it"],
        ),
    ],
)
def test_what_has_no_use_is_warned_of(write: Write, changes: dict[str, str | None], expected: list[str]) -> None:
    assert warnings(write(changes)) == expected
