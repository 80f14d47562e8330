"""The command line's verbs, one thin function each: parse, import what is needed, call one job of
:mod:`husai.jobs`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

NAMES = ("subjects", "training", "external", "summaries", "gate", "report")


def modules() -> list[ModuleType]:
    """The modules that define verbs, in the order the help shows them."""
    return [import_module(f"husai.verbs.{name}") for name in NAMES]


def verb(
    verbs, name: str, run: Callable, *, reads: str, writes: str, costs: str, summary: str
) -> argparse.ArgumentParser:
    """Add a verb whose help says what it reads, writes and costs."""
    description = f"{summary} Reads {reads}. Writes {writes}. Costs {costs}."
    command = verbs.add_parser(name, help=summary, description=description)
    command.set_defaults(run=run)
    return command


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{text}'")
    return int(text)


def spec_argument(text: str) -> dict:
    """A config slice: JSON text, or the name of a JSON file."""
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text()
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"not JSON and not the name of a JSON file ({error})"
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, found {type(value).__name__}")
    return value


def add_spec(command: argparse.ArgumentParser) -> None:
    """The slice of the configuration that the job depends on."""
    command.add_argument(
        "--spec",
        type=spec_argument,
        default={},
        metavar="JSON",
        help="config slice: JSON text or the name of a JSON file",
    )


def add_compute(command: argparse.ArgumentParser) -> None:
    """Where a job computes."""
    command.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default %(default)s)"
    )
    command.add_argument(
        "--dtype",
        default="float32",
        help="number format of training: float32, tf32, bfloat16 or float64 (default %(default)s)",
    )
    command.add_argument("--threads", type=int, default=None, help="CPU threads (default: all)")


def optional_path(command: argparse.ArgumentParser, flag: str, help: str) -> None:
    """A path that may be left out: rules pass the flag with nothing behind it where a job does not
    need it.
    """
    command.add_argument(flag, type=Path, nargs="?", const=None, default=None, help=help)
