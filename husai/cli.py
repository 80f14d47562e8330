"""``husai``: one thin command per verb. Each imports what it needs when it runs. Exit 0 done, 1
error, 2 gate failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from husai import __version__
from husai.errors import HusaiError

EPILOGUE = "Exit status: 0 done, 1 error (one line says what, where and what to do), 2 gate failed."


class Parser(argparse.ArgumentParser):
    """Argument parser whose mistakes are one line and status 1: argparse's own 2 means here that a
    gate failed.
    """

    def error(self, message: str) -> NoReturn:
        """Print the mistake and leave with status 1."""
        self.exit(1, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="husai",
        description="Decide whether sparse autoencoders can be trusted enough to release.",
        epilog=EPILOGUE,
    )
    top.add_argument("--version", action="version", version=f"husai {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    from husai import verbs as rooms

    for module in rooms.modules():
        module.add_to(verbs)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    args = parser().parse_args(argv)
    if getattr(args, "threads", None):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(args.threads)
    try:
        return int(args.run(args) or 0)
    except HusaiError as error:
        for line in str(error).splitlines():
            print(f"husai {args.verb}: {line}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print(
            f"husai {args.verb}: interrupted; run the same command again to go on", file=sys.stderr
        )
        return 130
    except MemoryError:
        print(
            f"husai {args.verb}: out of memory; lower batch_size or d_sae, or give the job more "
            "memory",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(
            f"husai {args.verb}: {error.filename or 'file'}: {error.strerror or error}; check the "
            "path and free space, then run again",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
