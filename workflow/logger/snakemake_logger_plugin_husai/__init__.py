"""What `make run` shows of a run: bars for its stages on a terminal, plain dated lines elsewhere.

Snakemake finds this package where its folder is on PYTHONPATH and `--logger husai` asks for it. The
full diary is Snakemake's own log file, whose name is the last line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from logging import LogRecord
from pathlib import Path

from rich.console import Console
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from .display import Bars, Lines
from .progress import Run, stages_of_rules

CHECKOUT = Path(__file__).parents[3]
LOG_TAIL = 12
"""Lines of a failed job's log that are shown: an error of HUSAI is one, a traceback ends in
these."""
NOT_SAID = ("Warning: the following output files of rule log",)
"""The experiment log is written when a run starts and again by its rule, as it should be."""
SAID_AS_IT_IS = ("Nothing to be done", "Complete log", "This was a dry-run")


class LogHandlerSettings(LogHandlerSettingsBase):
    """There is nothing to set."""


class LogHandler(LogHandlerBase):
    """Turns Snakemake's events into the state of a run and has it shown."""

    def __post_init__(self) -> None:
        self.listen(Console(stderr=True, highlight=False))

    def listen(self, console: Console) -> None:
        """Start with nothing known, and show on ``console`` from now on."""
        self.run = Run(stages_of_rules(CHECKOUT))
        self.display = (Bars if console.is_terminal else Lines)(self.run, console)

    def emit(self, record: LogRecord) -> None:
        """Take in one event of Snakemake's."""
        try:
            self._take(record)
        except Exception:
            self.handleError(record)

    def _take(self, record: LogRecord) -> None:
        event, now = getattr(record, "event", None), time.monotonic()
        if event == LogEvent.RUN_INFO:
            self.run.plan(record.stats, now)
            self.display.started()
        elif event == LogEvent.JOB_INFO and not self.common_settings.dryrun:
            name = " ".join([record.rule_name, *record.wildcards.values()])
            self.run.start(record.jobid, record.rule_name, record.rule_msg or name, now)
        elif event == LogEvent.JOB_FINISHED:
            self.display.finished(self.run.finish(record.job_id, now))
        elif event == LogEvent.JOB_ERROR:
            job = self.run.fail(record.jobid)
            self.display.say(failure(job.title if job else record.rule_name, record.log))
        elif event in (None, LogEvent.ERROR):
            self._say(record)

    def _say(self, record: LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.ERROR:
            self.display.ended()
        told = record.levelno >= logging.WARNING and not message.startswith(NOT_SAID)
        if told or message.startswith(SAID_AS_IT_IS):
            self.display.say(message)

    def close(self) -> None:
        self.display.ended()
        super().close()

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False


def failure(job: str, logs: Sequence[str]) -> str:
    """Which job failed, with the end of its log."""
    out = [f"FAILED {job}"]
    for name in logs:
        path = Path(name)
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        out += [f"  the end of {name}:" if lines else f"  {name} is empty"]
        out += [f"    {line}" for line in lines[-LOG_TAIL:]]
    return "\n".join(out)
