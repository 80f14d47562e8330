"""The overlay of ``husai judge``: what SAEs, model and text of a command line decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from husai.config import Config
from husai.config.inputs import Activations, PretrainedSubject, Training
from husai.config.text import CorpusSection, FileText, ProbingText

N_CTX = 128
"""Tokens of a context: the length at which most published SAEs are evaluated (SAEBench's
``context_size``), and short enough for a CPU."""
ROWS = {"train": 200_000, "held_out": 4096, "confirmation": 4096}
"""Activation rows at most. 200,000 are read five times by a control's training; 4096 held-out rows
are those of the embedded default."""
TEXT_PER_ROW = 5
"""Training tokens read for each training row, so that rows come from many documents: a quarter of
the positions of a context are read, and some of them are special tokens."""
TRAINING = {"steps": 1000, "batch_size": 1024, "learning_rate": 1.0e-3}
"""How controls are trained: steps and batches of the embedded default, at the learning rate of its
slower recipes."""
HELD_OUT = 0.1
"""Share of the documents for each of held-out measurements and confirmation, as text may be
short."""
CONTROL_SEEDS = 3
"""Seeds of the frozen-decoder controls in the table that chooses; the confirmation trains its
own."""


def overlay(
    base: Config,
    *,
    candidates: Sequence[Mapping[str, Any]],
    model: str,
    hook: str,
    hooks: Sequence[str],
    text: Sequence[str],
    prepend_bos: bool | None,
    rows: Mapping[str, int],
) -> dict[str, Any]:
    """Keys to lay over the shipped configuration ``base``.

    Parameters
    ----------
    candidates : sequence of mapping
        ``name``, ``path`` and ``confirmation`` of each.
    model, hook : str
        The subject and where its SAEs read.
    hooks : sequence of str
        Input and output of the MLP of the hook's layer, for the transcoder.
    text : sequence of str
        Globs of text files; the probing data sets' own text where there are none.
    rows : mapping
        Rows per split that the text can give.
    """
    subject = base.external.subject
    wanted = {split: min(most, rows[split]) for split, most in ROWS.items()}
    source = FileText(kind="files", paths=list(text)) if text else ProbingText(kind="probing")
    members = [len(c["path"]) for c in candidates]
    return {
        "stages": [],
        "subjects": {
            subject: PretrainedSubject(
                kind="pretrained",
                model=model,
                n_ctx=N_CTX,
                prepend_bos=prepend_bos,
                hooks=list(dict.fromkeys([hook, *hooks])),
            ).model_dump()
        },
        "corpus": CorpusSection(
            sources=[source],
            max_tokens=TEXT_PER_ROW * ROWS["train"],
            max_chars_per_row=None if text else base.corpus.max_chars_per_row,
            held_out_fraction=HELD_OUT,
            confirmation_fraction=HELD_OUT,
        ).model_dump(),
        "activations": {
            subject: Activations(**{f"{s}_rows": n for s, n in wanted.items()}).model_dump()
        },
        "training": {
            subject: Training(
                **{**TRAINING, "batch_size": min(TRAINING["batch_size"], wanted["train"])}
            ).model_dump()
        },
        "external": {"candidates": [{**c, "subject": subject, "hook": hook} for c in candidates]},
        "frontier": {"seeds": base.frontier.seeds[:CONTROL_SEEDS]},
        "scaling": {"hooks": [hook]},
        "selection": {"min_seeds": min(base.selection.min_seeds, *members)},
        "stress": {"transcoder_subject": subject, "transcoder_hooks": list(hooks)},
        "gate": {"policies": ["strict"], "fail_on_gate_fail": False},
    }
