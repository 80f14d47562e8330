"""Run a command while holding a lock that the kernel drops when the last of its processes ends.

Snakemake's own lock survives ``kill -9``; this one does not, so a killed run is simply started
again. A second run in the same directory is refused while any job of the first is alive.

Usage: exclusive.py LOCKFILE COMMAND [ARGUMENT ...]
"""

import fcntl
import os
import sys


def main() -> None:
    path, command = sys.argv[1], sys.argv[2:]
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(
            f"{path}: a run in this directory is still going, or jobs of a killed one are; wait "
            "for them or stop them, then run again"
        )
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
