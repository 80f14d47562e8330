"""Progress of long jobs: a bar on a terminal, plain dated lines in a log file."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from husai.shown import printable


def log(message: str) -> None:
    """Write one dated line to standard error."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    print(f"{stamp} {printable(message)}", file=sys.stderr, flush=True)


class Progress:
    """Counts to ``total`` units (steps, rows, data sets) of what ``label`` says; draws a bar on a
    terminal and otherwise logs a line at most every ``every`` seconds.
    """

    def __init__(self, total: int, label: str, every: float = 15.0):
        self.total, self.label, self.every = max(int(total), 1), label, every
        self.done = 0
        self.start = self.last = time.monotonic()
        self.is_terminal = sys.stderr.isatty()

    def update(self, n: int = 1, note: str = "") -> None:
        """Advance by ``n`` units; ``note`` is appended to what is shown."""
        self.done += n
        now = time.monotonic()
        finished = self.done >= self.total
        if not finished and now - self.last < (0.1 if self.is_terminal else self.every):
            return
        self.last = now
        elapsed = now - self.start
        rest = elapsed * max(self.total - self.done, 0) / max(self.done, 1)
        text = f"{self.label} {self.done}/{self.total} ({elapsed:.0f} s, {rest:.0f} s left) {note}".rstrip()
        if self.is_terminal:
            bar = "#" * int(20 * min(self.done / self.total, 1.0))
            end = "\n" if finished else ""
            print(f"\r[{bar:.<20}] {text}\x1b[K", end=end, file=sys.stderr, flush=True)
        else:
            log(text)
