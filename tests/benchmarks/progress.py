"""What the run is at: a bar on a terminal, plain lines in a pipe. On stderr, so that stdout is the report alone."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Call it with what comes next. The bar is drawn between phases only: drawing would disturb the load's core."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done = steps, 0
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
            self._task = self._bar.add_task("starting", total=steps)

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, what: str) -> None:
        if self._bar:
            self._bar.update(self._task, description=what, completed=self._done)
            self._bar.refresh()
        else:
            print(f"[{self._done + 1}/{self._steps}] {what}", file=sys.stderr, flush=True)
        self._done += 1
