"""What the torture is at: a bar on a terminal, a line for every tenth in a pipe. On stderr."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """`with Progress("sequences", 1000) as done: done()` for each, `done("what")` to say what was done."""

    def __init__(self, title: str, steps: int) -> None:
        self._title, self._steps, self._done = title, steps, 0
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, TextColumn("{task.description}"), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, what: str = "") -> None:
        self._done += 1
        if self._bar:
            self._bar.update(self._task, description=what, completed=self._done)
        elif self._done == self._steps or self._done % max(1, self._steps // 10) == 0:
            print(f"{self._title} {self._done}/{self._steps} {what}".rstrip(), file=sys.stderr, flush=True)
