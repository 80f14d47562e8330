"""Verb ``judge``: from somebody's SAEs to a verdict and a report. Writes the configuration, and has
Snakemake run what it needs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import HusaiError
from husai.jobs.arguments import add_path, add_paths, describe, positive
from husai.progress import log

NEEDS = {
    "snakemake": "workflow",
    "sae_probes": "probing",
    "numba": "probing",
    "transformer_lens": "subjects",
}
"""Packages that every run of the workflow imports, and the extra that brings each."""


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="SAEs, a model, text files",
        writes="config.yaml, results/ and reports/ in --out; the same command goes on with what is "
        "there",
        costs="minutes for a small model on two cores; mostly passes of the model over text",
    )
    command.add_argument(
        "saes",
        nargs="+",
        metavar="SAE",
        help="a checkpoint, saelens:RELEASE/SAE_ID, hf:REPO[/FOLDER][@REV], or a folder of seed*/; "
        "single SAEs of one kind are seeds of one candidate",
    )
    command.add_argument(
        "--confirm",
        nargs="+",
        action="extend",
        default=[],
        metavar="SAE",
        help="SAEs of the same kind that took no part in any choice: 8 for the strict policy",
    )
    command.add_argument(
        "--model",
        required=True,
        help="a hub id, a folder in Hugging Face layout, or package:NAME/PATH",
    )
    command.add_argument("--hook", required=True, help="hook point the SAEs read")
    add_paths(
        command,
        "--text",
        "text files (.txt, .jsonl, .parquet) for held-out rows and controls; without any, the "
        "probing data sets' own text",
        metavar="F",
    )
    command.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="settings laid over those that are written",
    )
    add_path(command, "--out", "default %(default)s", default=Path("judged"))
    command.add_argument("--cores", type=positive, default=os.cpu_count(), help="default: all")
    command.add_argument(
        "--fail-on-gate-fail", action="store_true", help="exit 2 when the verdict is no"
    )


def run(args: Namespace) -> int:
    """Judge; the exit status is that of the run."""
    _check_packages()
    from husai.config import load
    from husai.workflow_files import workflow_folder

    home = workflow_folder()
    base = home / "config/config.yaml"
    settings = configuration(
        base, args.saes, args.confirm, model=args.model, hook=args.hook, text=args.text
    )
    args.out.mkdir(parents=True, exist_ok=True)
    written = args.out / "config.yaml"
    files = [written.resolve(), *(path.resolve() for path in args.configfile)]
    command = _snakemake(home, args.out, files, args.cores)
    provenance.write_text(written, _as_yaml(settings, command))
    load([base, *files])
    log(f"configuration in {written}; running Snakemake in {args.out}")
    done = subprocess.run(command, env=_environment(home))
    if done.returncode:
        raise HusaiError(
            f"{args.out}: the run stopped (see above, and {args.out / 'logs'}); run the same "
            "command again to go on"
        )
    decision = provenance.read_json(args.out / "results/gate/strict/release_policy.json")
    return 2 if args.fail_on_gate_fail and not decision["gates"]["pass_all"] else 0


def _check_packages() -> None:
    absent = [name for name in NEEDS if not _installed(name)]
    if absent:
        extras = ",".join(dict.fromkeys(NEEDS[name] for name in absent))
        raise HusaiError(
            f"{', '.join(absent)} not installed, which the run needs; pip install 'husai[{extras}]'"
        )


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def configuration(
    base: Path,
    saes: Sequence[str],
    confirm: Sequence[str],
    *,
    model: str,
    hook: str,
    text: Sequence[Path] = (),
) -> dict[str, Any]:
    """The overlay that judges ``saes``, every input of it checked.

    Raises
    ------
    HusaiError
        What :func:`husai.brought.candidates.candidates` and :func:`husai.subjects.survey.survey`
        refuse; SAEs of another width than the hook.
    """
    from husai.brought.candidates import candidates
    from husai.config import load
    from husai.planning.judged import ROWS, overlay
    from husai.planning.plan import Plan
    from husai.planning.spec_builder import SpecBuilder
    from husai.sae.hooks import remarks, stated_prepend_bos
    from husai.subjects.survey import survey

    found = candidates(saes, confirm, hook_name=hook)
    for remark in dict.fromkeys(r for c in found for n in c.notes for r in remarks(n, model)):
        log(f"warning: {remark}")
    shipped = load([base])
    inputs: dict[str, Any] = {
        "candidates": [
            {"name": c.name, "path": c.members, "confirmation": c.confirmation} for c in found
        ],
        "model": str(Path(model).resolve()) if Path(model).is_dir() else model,
        "hook": hook,
        "text": [str(path.resolve()) for path in text],
        "prepend_bos": stated_prepend_bos([note for c in found for note in c.notes]),
    }
    # The spec of the subject's job, before it is known how many rows its text gives.
    draft = load([base], override=overlay(shipped, **inputs, hooks=[hook, hook], rows=ROWS))
    spec = json.loads(SpecBuilder(Plan(draft)).subject(draft.external.subject))
    offered = survey(spec, hook)
    for candidate in found:
        if candidate.kind.d_in != offered.d_in:
            raise HusaiError(
                f"{candidate.members[0]}: the SAE reads {candidate.kind.d_in} values, {hook} of "
                f"{model} has {offered.d_in}; give the model and hook it was trained on"
            )
    return overlay(shipped, **inputs, hooks=offered.transcoder_hooks, rows=offered.rows)


def _snakemake(home: Path, out: Path, files: Sequence[Path], cores: int) -> list[str]:
    return [
        *(sys.executable, str(home / "workflow/exclusive.py"), str(out / ".snakemake/run.lock")),
        *(sys.executable, "-m", "snakemake", "--nolock", "--logger", "husai"),
        *("--profile", str(home / "profiles/local")),
        *("--snakefile", str(home / "Snakefile")),
        *("--directory", str(out.resolve())),
        *("--cores", str(cores)),
        *("--configfile", *map(str, files)),
    ]


def _environment(home: Path) -> dict[str, str]:
    """Snakemake finds the logger that shows stages instead of a diary on the search path."""
    paths = [str(home / "workflow/logger"), os.environ.get("PYTHONPATH", "")]
    search = os.pathsep.join(filter(None, paths))
    return {**os.environ, "PYTHONPATH": search, "PYTHONHASHSEED": "0"}


def _as_yaml(settings: dict[str, Any], command: Sequence[str]) -> str:
    import yaml

    head = (
        "# Written by husai judge, to be laid over the shipped config/config.yaml. Edit it and run\n"
        f"#   {shlex.join(w for w in command[3:] if w not in ('--logger', 'husai'))}\n"
    )
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
