"""``husai``: finds the verb, imports and runs its job. Exit 0 done, 1 error, 2 gate failed."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from importlib import import_module
from typing import NoReturn

from husai import __version__
from husai.errors import HusaiError
from husai.shown import printable

EPILOGUE = "Exit status: 0 done, 1 error (one line says what, where and what to do), 2 gate failed."
VERBS = {
    "subject": "Train or load the model under study.",
    "activations": "Store activations of a subject at a hook.",
    "train": "Train the ensemble of a recipe: all its seeds as one computation.",
    "bring": "Import SAEs that another trainer wrote, as the members of one ensemble.",
    "judge": "From SAEs that you have to a verdict: writes the configuration and runs what it needs.",
    "stability": "Measure how far SAEs of different seeds agree, against honest nulls.",
    "saebench": "Sparse probing of an SAE on the probing data sets.",
    "cebench": "CE-Bench scores of an SAE on contrastive story pairs.",
    "faithfulness": "What the subject loses when an SAE's reconstruction takes its activations' place.",
    "ood": "Probes trained in domain, tested out of domain: the SAE's drop against the model's.",
    "official": "Preflight, and with --execute run, SAEBench's or CE-Bench's own program.",
    "summarize": "Turn a stage's measurements into its summary or evidence.",
    "select": "Choose one candidate.",
    "gate": "Judge a candidate: policy x evidence -> decision; `gate selftest` and `gate assert` "
    "beside it.",
    "passport": "Certify single latents: which of them reappear in fresh seeds.",
    "export": "Write the representative SAE with its passports, model card and verdict.",
    "publish": "Upload an exported SAE to the model hub.",
    "claim": "Record a claim, if and only if the strict gate passed for its evidence.",
    "report": "Write the gate report.",
    "log": "Write the experiment log, or note an event of a run.",
    "verify": "Check every artifact and every number of the reports.",
    "dag": "Draw the workflow.",
    "doctor": "Can this machine run the profile?",
}
"""Every verb with what it does; its job is ``husai.jobs.VERB``."""
COLLECTED_AFTER = 10_000
"""Objects made before Python looks for unreachable ones, 700 by default. Importing torch makes
hundreds of thousands that all stay: looking seldom takes a tenth off that, and a fifth off the
import of TransformerLens."""


class Parser(argparse.ArgumentParser):
    """Parser whose mistakes are one line and status 1: argparse's 2 says here: a gate failed."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and leave with status 1."""
        self.exit(1, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The command line; with ``verb`` that verb alone has options, and its job is imported."""
    top = Parser(
        prog="husai",
        description="Decide whether sparse autoencoders can be trusted enough to release.",
        epilog=EPILOGUE,
    )
    top.add_argument("--version", action="version", version=f"husai {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        command = verbs.add_parser(name, help=summary, description=summary)
        if verb in (None, name):
            job = import_module(f"husai.jobs.{name}")
            job.add_arguments(command)
            command.set_defaults(run=job.run)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    gc.set_threshold(COLLECTED_AFTER)
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter shows its number
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = parser(next((word for word in argv if word in VERBS), "")).parse_args(argv)
    if getattr(args, "threads", None):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(args.threads)
    try:
        if getattr(args, "threads", None):
            from husai.compute import use_threads

            use_threads(args.threads)
        status = int(args.run(args) or 0)
        sys.stdout.flush()
        return status
    except HusaiError as error:
        return _fail(args.verb, *error.args, status=getattr(error, "exit_status", 1))
    except KeyboardInterrupt:
        return _fail(args.verb, "interrupted; run the same command again to go on", status=130)
    except MemoryError:
        what = "out of memory; lower batch_size or d_sae, or give the job more memory"
        return _fail(args.verb, what)
    except RecursionError:
        return _fail(args.verb, "an input is nested too deeply to be read; check the files given")
    except BrokenPipeError:
        # What is still buffered has no reader either: without this the interpreter complains
        # about it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(args.verb, "the reader of its output stopped before everything was printed")
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == "husai":
            raise
        what = f"the package {error.name} is missing; pip install 'husai[all]' brings what it needs"
        return _fail(args.verb, what)
    except OSError as error:
        where = error.filename or "file"
        what = error.strerror or error
        return _fail(args.verb, f"{where}: {what}; check the path and free space, then run again")


def _fail(verb: str, *lines: object, status: int = 1) -> int:
    """Print each line of a message with the verb it belongs to."""
    for line in lines:
        print(f"husai {verb}: {printable(line)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
