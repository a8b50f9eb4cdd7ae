"""What a run of the torture found, and the file that says so. Pure, save for `describe`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.processes import Cores
from tests.faults.found import Found
from tests.faults.sequences import Played

FILE = Path(__file__).parents[1] / "evidence" / "faults.toml"


@dataclass
class Evidence:
    """`matrix`: the differences by the id of the entry, none where it passed."""

    seed: int
    matrix: dict[str, list[str]] = field(default_factory=dict)
    sequences: list[Played] = field(default_factory=list)
    scenarios: list[Found] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not (
            any(self.matrix.values())
            or any(played.problems for played in self.sequences)
            or any(not found.ok for found in self.scenarios)
        )

    def wrong(self) -> Iterator[str]:
        """Every failure in a sentence that says how to see it again."""
        for name, differences in self.matrix.items():
            if differences:
                yield f"fault {name}: {'; '.join(differences)}"
        for played in self.sequences:
            if played.problems:
                again = f"python -m tests.faults --only sequences --sequences 1 --seed {played.seed}"
                yield f"sequence {played.seed}: {'; '.join(played.problems[:3])}\n  again: {again}"
        for found in self.scenarios:
            if not found.ok:
                yield f"scenario {found.name}: wanted {found.wanted}; seen {found.seen}"


def describe(folder: Path) -> dict[str, str]:
    """The machine, the versions, where the ledger lies, and the commit."""
    available = os.sched_getaffinity(0)
    about = machine.describe(Cores.of(available), len(available), folder)
    return {name.replace(" ", "_"): value for name, value in about.items() if name != "pinned"}


def as_toml(evidence: Evidence, about: Mapping[str, str]) -> str:
    """The file's text."""
    about = dict(about)
    failed = [name for name, differences in evidence.matrix.items() if differences]
    lines = [
        "# What `make torture` found. Written by it: do not edit.",
        "",
        f"commit = {_text(about.pop('commit', 'unknown'))}",
        f"seed = {evidence.seed}",
        "",
        "[machine]",
        *(f"{name} = {_text(value)}" for name, value in about.items()),
        "",
        "[matrix]",
        f"entries = {len(evidence.matrix)}",
        f"passed = {len(evidence.matrix) - len(failed)}",
        f"failed = {json.dumps(failed)}",
        "",
        "[sequences]",
        *_sequences(evidence.sequences),
    ]
    for found in evidence.scenarios:
        lines += ["", "[[scenario]]", f"name = {_text(found.name)}", f"wanted = {_text(found.wanted)}"]
        lines += [f"seen = {_text(found.seen)}", f"ok = {str(found.ok).lower()}"]
    return "\n".join(lines) + "\n"


def _sequences(sequences: Sequence[Played]) -> Iterator[str]:
    states = sum((played.states for played in sequences), Counter[str]())
    yield f"played = {len(sequences)}"
    yield f"requests = {sum(played.requests for played in sequences)}"
    yield f"failed = {[played.seed for played in sequences if played.problems]}"
    yield f"rows = {{ {', '.join(f'{name} = {count}' for name, count in sorted(states.items()))} }}"
    yield f"billed_nusd = {sum(played.billed_nusd for played in sequences)}"
    yield f"settled_nusd = {sum(played.settled_nusd for played in sequences)}"
    yield f"unresolved_nusd = {sum(played.held_nusd for played in sequences)}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a basic string of TOML
