"""`make torture`: the whole fault matrix, a thousand random sequences of faults, and scenarios with figures."""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tests.faults import drains, evidence, outages, slow
from tests.faults.entries import load
from tests.faults.evidence import Evidence
from tests.faults.found import FULL
from tests.faults.pool import empty_folder, in_processes, play_entry, play_sequence
from tests.faults.progress import Progress

SCENARIOS = (*outages.SCENARIOS, *drains.SCENARIOS, *slow.SCENARIOS)
PARTS = ("matrix", "sequences", *(scenario.__name__ for scenario in SCENARIOS))
SEQUENCES = 1000
"""Of a full run."""

FILES = 8192


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first sequence and of the scenarios (default: random)")
    parser.add_argument("--sequences", type=int, default=SEQUENCES, help="how many, seeds counted up")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to play: {','.join(PARTS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument(
        "--write", type=Path, help=f"file for what was found (default, for a full run: {evidence.FILE})"
    )
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))} (choose from {', '.join(PARTS)})")
    if options.write is None and set(options.only) == set(PARTS) and options.sequences >= SEQUENCES:
        options.write = evidence.FILE
    return options


def run(options: argparse.Namespace) -> Evidence:
    """Plays the parts that were asked for."""
    seed = random.randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr)
    found = Evidence(seed)
    if "matrix" in options.only:
        names = [entry.id for entry in load()]
        played = dict(in_processes("matrix", play_entry, names, options.jobs))
        found.matrix = {name: played[name] for name in names}
    if "sequences" in options.only:
        seeds = range(seed, seed + options.sequences)
        results = in_processes("sequences", play_sequence, seeds, options.jobs)
        found.sequences = sorted(results, key=lambda played: played.seed)
    scenarios = [scenario for scenario in SCENARIOS if scenario.__name__ in options.only]
    with Progress("scenarios", len(scenarios)) as done:
        for scenario in scenarios:
            with empty_folder() as folder:
                found.scenarios.append(uvloop.run(scenario(folder, seed, FULL)))
            done(found.scenarios[-1].name)
    return found


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    raise_file_limit()
    try:
        found = run(options)
    except KeyboardInterrupt:
        return 130
    with empty_folder() as folder:
        text = evidence.as_toml(found, evidence.describe(folder))
    if options.write:
        options.write.parent.mkdir(exist_ok=True)
        options.write.write_text(text)
    print(text)
    for problem in found.wrong():
        print(f"WRONG {problem}")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
