"""What command lines share: the spec, where to compute, optional paths, lists that add up."""

from __future__ import annotations

import argparse
from pathlib import Path

from husai.provenance import parse_json


def describe(command: argparse.ArgumentParser, *, reads: str, writes: str, costs: str) -> None:
    """Say in a verb's help what it reads, writes and costs."""
    command.description += f" Reads {reads}. Writes {writes}. Costs {costs}."


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{text}'")
    return int(text)


def spec_argument(text: str) -> dict:
    """A job's spec: JSON text, or the name of a JSON file."""
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text(encoding="utf-8")
        value = parse_json(text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"not JSON and not the name of a JSON file ({error})"
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, found {type(value).__name__}")
    return value


def add_spec(command: argparse.ArgumentParser) -> None:
    """The part of the configuration that the job depends on."""
    command.add_argument(
        "--spec",
        type=spec_argument,
        default={},
        metavar="JSON",
        help="the job's settings: JSON text or the name of a JSON file",
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
    command.add_argument("--threads", type=positive, help="CPU threads (default: all)")


def add_path(command: argparse.ArgumentParser, flag: str, help: str, **options) -> None:
    """One path."""
    command.add_argument(flag, type=Path, help=help, **options)


def add_paths(command: argparse.ArgumentParser, flag: str, help: str, **options) -> None:
    """Several paths, added up when the option is given again; rules may pass the flag alone."""
    command.add_argument(
        flag, type=Path, nargs="*", action="extend", default=[], help=help, **options
    )


def optional_path(command: argparse.ArgumentParser, flag: str, help: str) -> None:
    """A path that may be left out: rules then pass the flag with nothing behind it."""
    command.add_argument(flag, type=Path, nargs="?", help=help)
