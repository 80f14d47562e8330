"""The state of a run: its stages, the jobs under way, and an estimate of the time that is left."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

RULE = re.compile(
    r'^(?:(?:use rule \w+ as|rule) (\w+)(?: with)?:|for .* in by_seeds\("(\w+)"\):)', re.MULTILINE
)
INCLUDE = re.compile(r'^include: "rules/(\w+)\.smk"', re.MULTILINE)


def stages_of_rules(checkout: Path) -> dict[str, str]:
    """The stage of every rule, in the order of the workflow: a stage is a file of ``rules/``."""
    stages = INCLUDE.findall((checkout / "Snakefile").read_text())
    return {
        one or several: "SAEs" if stage == "saes" else stage.capitalize()
        for stage in stages
        for one, several in RULE.findall((checkout / f"rules/{stage}.smk").read_text())
    }


def purpose(rule: str) -> str:
    """The name that rules of one purpose for other seeds (``saebench_1``) share."""
    return re.sub(r"_\d+$", "", rule)


class Stage(NamedTuple):
    """How many of a stage's jobs are done."""

    name: str
    done: int
    total: int
    seconds: float
    """What its finished jobs took, one after the other."""


class Job(NamedTuple):
    """A job under way."""

    rule: str
    title: str
    since: float


class Run:
    """Counts the jobs of a run by stage. Times are seconds of a clock that only goes forward.

    Parameters
    ----------
    stage_of : mapping
        The stage of every rule; rules without one (named targets) are not counted.
    """

    def __init__(self, stage_of: Mapping[str, str]):
        self.stage_of = stage_of
        self.wanted: Counter = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.under_way: dict[int, Job] = {}
        self.began = 0.0

    def plan(self, counts: Mapping[str, int], now: float) -> None:
        """How many jobs of each rule the run is to do."""
        self.wanted.clear()
        for rule, n in counts.items():
            if purpose(rule) in self.stage_of:
                self.wanted[purpose(rule)] += n
        self.began = now

    def start(self, job: int, rule: str, title: str, now: float) -> None:
        """A job began."""
        self.under_way[job] = Job(purpose(rule), title, now)

    def finish(self, job: int, now: float) -> str | None:
        """A job ended well: the stage it belongs to."""
        ended = self.under_way.pop(job, None)
        if ended is None or ended.rule not in self.stage_of:
            return None
        self.seconds[ended.rule].append(now - ended.since)
        return self.stage_of[ended.rule]

    def fail(self, job: int) -> Job | None:
        """A job ended badly; it stays undone. The job, if it was known to be under way."""
        return self.under_way.pop(job, None)

    @property
    def stages(self) -> list[Stage]:
        """Every stage that has jobs in this run, in the order of the workflow."""
        times: dict[str, list[float]] = defaultdict(list)
        total: Counter = Counter()
        for rule, stage in self.stage_of.items():
            total[stage] += self.wanted[rule]
            times[stage] += self.seconds.get(rule, ())
        return [Stage(s, len(times[s]), n, sum(times[s])) for s, n in total.items() if n]

    @property
    def done(self) -> int:
        return sum(len(times) for times in self.seconds.values())

    @property
    def total(self) -> int:
        return sum(self.wanted.values())

    def seconds_left(self, now: float) -> float | None:
        """An estimate: a rule's remaining jobs take what its finished ones took on average, a rule
        that has none takes the average of all, and as many jobs run side by side as did so far.
        None before the first job is done.
        """
        spent = sum(map(sum, self.seconds.values()))
        if not spent or now <= self.began:
            return None
        typical = spent / self.done
        work = 0.0
        for rule, count in self.wanted.items():
            times = self.seconds.get(rule, [])
            mean = sum(times) / len(times) if times else typical
            work += mean * (count - len(times))
        begun = sum(now - job.since for job in self.under_way.values())
        side_by_side = max((spent + begun) / (now - self.began), 1.0)
        return max(work - begun, 0.0) / side_by_side


def lasting(seconds: float) -> str:
    """A duration in the units that a reader needs."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
