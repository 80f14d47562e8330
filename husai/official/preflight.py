"""Can SAEBench's or CE-Bench's own program run here: its command as an argument list, its
interpreter, its module and version.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from husai.errors import HusaiError, nearest

SHELL_OPERATORS = re.compile(r"[|;&<>`\n\r]|\$\(|\$\{")
OPERATOR_ARGUMENT = re.compile(r"^\d*[|;&<>]+\d*$|^&?>>?|[`\n\r]|\$\(|\$\{")
IMPORT_SECONDS = 300
"""Importing SAEBench takes 20 s on a quiet machine with its files on a local disk."""


SAEBENCH_VERSION = "0.6.0"


class Program(NamedTuple):
    """An external benchmark with a command line of its own."""

    module: str
    """What its command runs; importing it is the preflight."""
    distribution: str | None
    """Name on the package registry; None when it is only a repository."""
    version: str | None
    """Version our comparison was written for."""
    output_option: str | None
    """Option of its command that names the folder of its results."""
    results: str
    """Pattern of its result files below that folder (or the working directory)."""
    example: str
    """A command, for messages."""


PROGRAMS = {
    "saebench": Program(
        "sae_bench.evals.sparse_probing_sae_probes.main",
        "sae-bench",
        SAEBENCH_VERSION,
        "--output_folder",
        "**/*eval_results.json",
        f"python {Path(__file__).with_name('saebench_program.py')} --sae "
        "results/saes/language/topk-d1024-k32/seed42 --model_name language --cache CACHE "
        "--output_folder results/official",
    ),
    "cebench": Program(
        "ce_bench.CE_Bench",
        None,
        None,
        None,
        "interpretability_eval/**/results.json",
        "python -m ce_bench.CE_Bench --sae_regex_pattern NAME --sae_block_pattern "
        "blocks.3.hook_resid_post",
    ),
}

PROBE = """
import importlib, importlib.metadata, json, sys, traceback
module, distribution = sys.argv[1], sys.argv[2]
found = {"importable": True, "error": None, "version": None, "python_version": sys.version.split()[0]}
try:
    importlib.import_module(module)
except BaseException as error:
    found.update(importable=False, error=f"{type(error).__name__}: {error}".splitlines()[0])
try:
    found["version"] = importlib.metadata.version(distribution) if distribution else None
except importlib.metadata.PackageNotFoundError:
    pass
print("HUSAI-PREFLIGHT " + json.dumps(found))
"""


def parse_command(command: str | Sequence[str]) -> list[str]:
    """Argument list of a command; no shell ever sees it.

    A text is split like a shell would, and refused if it holds a shell operator (``| ; & > <``, a
    backtick, ``$(``, ``${`` or a line break), quoted or not. A list is taken as it is: an argument
    may hold ``|``, but an argument that *is* an operator is refused.

    Raises
    ------
    HusaiError
        An operator, an unbalanced quote, nothing at all, or something that is not text.
    """
    if isinstance(command, str):
        found = SHELL_OPERATORS.search(command)
        if found:
            raise HusaiError(
                f"command: {found.group()!r} is a shell operator, and commands run without a "
                "shell; give one program and its arguments "
                "(an argument that needs the character: write the command as a list)"
            )
        try:
            argv = shlex.split(command)
        except ValueError as error:
            raise HusaiError(f"command: {error} in {command!r}; balance the quotes") from None
    else:
        argv = list(command)
        for argument in argv:
            if not isinstance(argument, str):
                raise HusaiError(f"command: argument {argument!r} is not text; quote it")
            if OPERATOR_ARGUMENT.search(argument):
                raise HusaiError(
                    f"command: argument {argument!r} is a shell operator, and commands run "
                    "without a shell; remove it"
                )
    if not argv or not argv[0]:
        raise HusaiError("command: is empty; give a program and its arguments")
    return argv


def resolve_python(python: str | Path | None) -> str:
    """The interpreter to use: a path, a name on the PATH, or the folder of an environment; by
    default this one.

    Raises
    ------
    HusaiError
        ``python`` is none of these.
    """
    if python is None:
        return sys.executable
    path = Path(python)
    if path.is_dir():
        path = path / "bin" / "python"
    found = str(path.absolute()) if path.is_file() else shutil.which(str(python))
    if not found:
        raise HusaiError(
            f"official.python: '{python}' is no interpreter nor an environment's folder; create "
            "one from workflow/envs/saebench.yaml"
        )
    return found


def preflight(
    program: str,
    command: str | Sequence[str] | None = None,
    *,
    python: str | Path | None = None,
    working_directory: str | Path | None = None,
    module: str | None = None,
) -> dict:
    """Can this program run here? Imports its module in its own interpreter and looks for its
    command; runs nothing else.

    Nothing is imported from the working directory: a module found there, as CE-Bench's is in a
    clone of its repository, is reported as importable without a try.

    Returns
    -------
    dict
        ``ready``, ``problems`` (one line each), ``python``, ``module``, ``importable``,
        ``version``, ``required_version``, ``command``.

    Raises
    ------
    HusaiError
        Unknown program, shell operators in the command, or no such interpreter or folder.
    """
    if program not in PROGRAMS:
        raise HusaiError(
            f"program '{program}' is not one of {', '.join(PROGRAMS)}"
            f"{nearest(program, tuple(PROGRAMS))}"
        )
    known, interpreter = PROGRAMS[program], resolve_python(python)
    folder = Path(working_directory) if working_directory else Path.cwd()
    if not folder.is_dir():
        raise HusaiError(
            f"official.working_directory: {folder} is no folder; give the folder the program runs in"
        )
    argv = None if command is None else parse_command(command)
    if argv and argv[0] in ("python", "python3"):
        argv[0] = interpreter
    module = module or known.module
    found = _probe(interpreter, module, known.distribution)
    if _file_of(module, folder):
        found.update(importable=True, error=None)
    problems = []
    if not found["importable"]:
        install = (
            f"pip install {known.distribution}=={known.version} there"
            if known.distribution
            else "run from its repository's folder"
        )
        problems.append(
            f"{interpreter} cannot import {module} ({found['error']}); {install} or name another "
            "python"
        )
    elif known.version and found["version"] != known.version:
        problems.append(
            f"{known.distribution} is {found['version']}, the comparison was written for "
            f"{known.version}; install that version"
        )
    if argv is None:
        problems.append(f"no command was given; for example: {known.example}")
    elif not (shutil.which(argv[0]) or (folder / argv[0]).is_file()):
        problems.append(f"command: '{argv[0]}' is not an executable; check the PATH")
    return {
        "program": program,
        "ready": not problems,
        "problems": problems,
        "python": interpreter,
        "module": module,
        **found,
        "required_version": known.version,
        "command": argv,
        "working_directory": str(folder),
    }


def _file_of(module: str, folder: Path) -> Path | None:
    """The file that ``python -m module`` would run from ``folder``, if there is one."""
    place = folder.joinpath(*module.split("."))
    candidates = (place.with_name(place.name + ".py"), place / "__main__.py", place / "__init__.py")
    return next((p for p in candidates if p.is_file()), None)


def _probe(python: str, module: str, distribution: str | None) -> dict:
    """Import ``module`` in another interpreter, from what is installed there: it starts in an empty
    folder, so that neither the working directory nor a relative search path has anything to give.
    """
    failed = {"importable": False, "version": None, "python_version": None}
    try:
        with tempfile.TemporaryDirectory(prefix="husai-preflight-") as empty:
            done = subprocess.run(
                [python, "-c", PROBE, module, distribution or ""],
                cwd=empty,
                capture_output=True,
                text=True,
                timeout=IMPORT_SECONDS,
            )
    except subprocess.TimeoutExpired:
        return {**failed, "error": f"the import took longer than {IMPORT_SECONDS} s"}
    except OSError as error:
        return {**failed, "error": f"the interpreter does not start: {error}"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("HUSAI-PREFLIGHT "):
            return json.loads(line.removeprefix("HUSAI-PREFLIGHT "))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {**failed, "error": f"the interpreter ended with status {done.returncode}: {last}"}
