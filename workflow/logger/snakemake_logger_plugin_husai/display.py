"""Two ways to show a run: bars that are drawn again in place, or a few dated lines."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .progress import Run, lasting

TENTHS = 10
"""A line at least for every tenth of the jobs: with one per stage and the end, under 60 in all."""
JOBS_SHOWN = 4
"""Rows for the jobs under way; with the stages they fit on a terminal of 24 lines."""


def left(run: Run) -> str:
    """The time left in words; nothing before the first job is done and after the last."""
    seconds = run.seconds_left(time.monotonic())
    return f", about {lasting(seconds)} left" if seconds and run.done < run.total else ""


class Lines:
    """Plain dated lines, for a log file or a pipe."""

    def __init__(self, run: Run, console: Console):
        self.run, self.console, self.told = run, console, 0

    def say(self, text: str) -> None:
        """One message, dated."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        self.console.print(Text(f"{stamp} {text}"), soft_wrap=True)

    def started(self) -> None:
        """The plan is known."""
        stages = [stage.name for stage in self.run.stages]
        self.say(f"{self.run.total} jobs in {len(stages)} stages: {', '.join(stages)}")

    def finished(self, stage: str | None) -> None:
        """A job of ``stage`` is done: a line when it was the last of its stage, or the tenth is."""
        run, tenth = self.run, TENTHS * self.run.done // max(self.run.total, 1)
        ended = any(s.name == stage and s.done == s.total for s in run.stages)
        if ended or tenth > self.told:
            self.told = tenth
            what = f"{stage} is done; " if ended else ""
            self.say(f"{what}{run.done} of {run.total} jobs{left(run)}")
        if stage and run.done == run.total:
            spent = [f"{s.name} {lasting(s.seconds)}" for s in run.stages]
            self.say(f"jobs took, one after the other: {', '.join(spent)}")

    def ended(self) -> None:
        """Nothing is left to show."""


class Bars:
    """A bar per stage, the jobs under way, and the time left, drawn four times a second."""

    def __init__(self, run: Run, console: Console):
        self.run, self.console = run, console
        self.live = Live(
            get_renderable=self.picture,
            console=console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def say(self, text: str) -> None:
        """One message, above the bars."""
        self.console.print(Text(text), soft_wrap=True)

    def started(self) -> None:
        """The plan is known."""
        self.live.start()

    def finished(self, stage: str | None) -> None:
        """A job is done: after the last of the run the bars stay as they are."""
        if self.run.done == self.run.total:
            self.ended()

    def ended(self) -> None:
        """Draw a last time, and leave the terminal to whoever writes next."""
        self.live.stop()

    def picture(self) -> Group:
        """The bars as they are now."""
        run, now = self.run, time.monotonic()
        table = Table.grid(padding=(0, 2))
        for stage in run.stages:
            ended = stage.done == stage.total
            table.add_row(
                Text(stage.name, style="dim" if ended else "bold" if stage.done else ""),
                ProgressBar(total=stage.total, completed=stage.done, width=30),
                Text(f"{stage.done} of {stage.total}", style="dim" if ended else ""),
                Text(lasting(stage.seconds) if stage.done else "", style="dim"),
            )
        jobs = list(run.under_way.values())
        shown = [Text(f"now: {j.title} ({lasting(now - j.since)})") for j in jobs[:JOBS_SHOWN]]
        if len(jobs) > JOBS_SHOWN:
            shown.append(Text(f"and {len(jobs) - JOBS_SHOWN} more"))
        gone = f"{run.done} of {run.total} jobs in {lasting(now - run.began)}{left(run)}"
        return Group(table, *shown, Text(gone, style="bold"))
