"""SAEBench's and CE-Bench's own programs, run as argument lists after a preflight: log, return
code, manifest, results compared with ours.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError, nearest
from husai.official.preflight import PROGRAMS, preflight
from husai.progress import log
from husai.yaml_files import load_yaml

CHECKED = ("program", "command", "python", "working_directory", "module")
"""Options of the preflight."""
OPTIONS = (*CHECKED, "results", "ours", "timeout_seconds")


def execute(
    argv: Sequence[str],
    log_path: str | Path,
    *,
    working_directory: str | Path,
    timeout_seconds: float | None = None,
) -> int:
    """Run ``argv`` without a shell, output and errors to ``log_path``; returns its status.

    The program is ended with everything it started when the time is over or this process is
    interrupted.

    Raises
    ------
    HusaiError
        It cannot be started, or ran past ``timeout_seconds``.
    """
    log_path = Path(log_path)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "w", encoding="utf-8") as handle:
        handle.write(f"$ {shlex.join(argv)}\n")
        handle.flush()
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=working_directory,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise HusaiError(
                f"command: {argv[0]} cannot be started ({error.strerror}); check the path and its "
                "permissions"
            ) from None
        try:
            return process.wait(timeout=timeout_seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise HusaiError(
                    f"{argv[0]}: ran past {timeout_seconds:g} s and was ended; see {log_path}, or "
                    "raise timeout_seconds"
                ) from None
            raise


def load_options(path: str | Path) -> dict:
    """Read a YAML file of ``OPTIONS`` (``program`` and ``command``, a list, are the usual ones).

    Raises
    ------
    HusaiError
        The file is no YAML mapping, or has a key that is not among them.
    """
    options = load_yaml(path)
    if not isinstance(options, dict):
        raise HusaiError(f"{path}: expected keys {', '.join(OPTIONS)}")
    for key in options:
        if key not in OPTIONS:
            raise HusaiError(f"{path}: unknown key '{key}'{nearest(str(key), OPTIONS)}")
    return options


def official_job(options: dict, out: str | Path, *, execute_program: bool = False) -> dict:
    """Preflight a program and, with ``execute_program``, run it, read its results back and compare
    them with ours.

    Parameters
    ----------
    options : dict
        ``OPTIONS``: ``program``, ``command`` (text or list), ``python``, ``working_directory``,
        ``results`` (file or folder of its results; by default where its command writes), ``ours``
        (our record of the same SAE), ``timeout_seconds``, ``module``.
    out : path
        Folder for ``preflight.json``, ``program.log``, ``comparison.json`` / ``.md`` and
        ``manifest.json``.

    Returns
    -------
    dict
        The preflight, and after a run ``return_code``, ``results`` (files) and ``comparison``.

    Raises
    ------
    HusaiError
        Asked to run what is not ready, or the program failed: its status and last line of output,
        with the log's name.
    """
    from husai.official.results import compare_files, write_comparison

    out = Path(out)
    options = {
        key: str(value) if isinstance(value, Path) else value for key, value in options.items()
    }
    checked = preflight(**{key: options.get(key) for key in CHECKED})
    provenance.write_json(out / "preflight.json", checked)
    if not execute_program:
        return checked
    program, argv, folder = (checked[k] for k in ("program", "command", "working_directory"))
    if not checked["ready"]:
        problems = "; ".join(checked["problems"])
        raise HusaiError(f"official {program}: not ready, nothing was run: {problems}")
    with provenance.job(out / "manifest.json", config=options) as work:
        log_path, started = out / "program.log", time.time()
        about = {"module_version": checked["version"], "python": checked["python"]}
        work.notes(program=program, argv=argv, **about)
        log(f"official {program}: running, log in {log_path}")
        limit = options.get("timeout_seconds")
        status = execute(argv, log_path, working_directory=folder, timeout_seconds=limit)
        work.notes(program_return_code=status)
        if status != 0:
            lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1][:200] if lines else ""
            raise HusaiError(
                f"official {program}: ended with status {status} ({last}); see {log_path}"
            )
        results = result_files(program, argv, folder, options.get("results"), started)
        work.reads(*results)
        work.writes(out / "preflight.json", log_path)
        comparison = None
        if options.get("ours"):
            comparison = compare_files(program, results, options["ours"])
            work.reads(options["ours"])
            work.writes(*write_comparison(comparison, out))
    names = [str(p) for p in results]
    return {**checked, "return_code": status, "results": names, "comparison": comparison}


def result_files(
    program: str, argv: Sequence[str], folder: str | Path, results: str | Path | None, since: float
) -> list[Path]:
    """Result files that the program wrote after ``since`` (seconds since the epoch); older ones are
    another run's and are not taken.

    Raises
    ------
    HusaiError
        None was written.
    """
    known = PROGRAMS[program]
    place = Path(folder) / (results or _option(argv, known.output_option) or ".")
    candidates = [place] if place.is_file() else sorted(place.glob(known.results))
    candidates = candidates or sorted(place.glob("**/*.json"))
    fresh = [p for p in candidates if p.stat().st_mtime >= since - 1]
    if not fresh:
        old = f" ({len(candidates)} older ones are left from another run)" if candidates else ""
        raise HusaiError(
            f"official {program}: ended well but wrote no result under {place}{old}; name its "
            "file or folder in 'results'"
        )
    return fresh


def _option(argv: Sequence[str], name: str | None) -> str | None:
    """Value of an option in an argument list, as ``--name value`` or ``--name=value``."""
    for i, argument in enumerate(argv):
        if name and argument == name and i + 1 < len(argv):
            return argv[i + 1]
        if name and argument.startswith(f"{name}="):
            return argument.split("=", 1)[1]
    return None
