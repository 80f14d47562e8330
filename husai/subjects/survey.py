"""What a model and a text have to offer before anything is computed: hooks, widths and rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from husai.activations import SPLITS
from husai.errors import HusaiError
from husai.subjects import pretrained
from husai.subjects.make import write_text_of
from husai.subjects.subject import Subject
from husai.subjects.text.contexts import load_contexts
from husai.subjects.text.corpus import build_corpus

TRANSCODER_HOOKS = (
    ("ln2.hook_normalized", "hook_mlp_out"),
    ("mlp.hook_in", "hook_mlp_out"),
    ("mlp.hook_in", "mlp.hook_out"),
)
"""Input and output of an MLP, by the names that kinds of models give them; the first pair counts
that a model has. Encoders normalise after their MLP and have no ``ln2.hook_normalized``."""


class Survey(NamedTuple):
    """Result of :func:`survey`."""

    d_in: int
    """Values per token at the hook."""
    transcoder_hooks: tuple[str, str]
    """Input and output of the MLP in the hook's layer."""
    rows: dict[str, int]
    """Tokens per split of the corpus that can become rows."""


def survey(spec: dict, hook_name: str) -> Survey:
    """Load the pretrained subject ``spec`` (with its ``corpus``) and count what it offers.

    Raises
    ------
    HusaiError
        See :func:`husai.subjects.pretrained.fetch` and
        :func:`husai.subjects.text.corpus.build_corpus`; a hook that the model lacks (the nearest is
        named); a model without an MLP to train a transcoder on.
    """
    loaded = pretrained.fetch(spec)
    record = {**loaded.record, "spec": spec}
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(spec["model"], "pretrained", loaded.model, loaded.tokenizer, record)
        width = subject.width(hook_name)
        hooks = _transcoder_hooks(subject, hook_name)
        record["n_ctx"] = subject.n_ctx
        write_text_of(Path(folder), loaded.tokenizer, build_corpus(spec["corpus"]), record, spec)
        rows = {
            split: int(subject.usable(torch.from_numpy(np.array(tokens)).long()).sum())
            for split, tokens in load_contexts(Path(folder)).items()
            if split in SPLITS
        }
    return Survey(width, hooks, rows)


def _transcoder_hooks(subject: Subject, hook_name: str) -> tuple[str, str]:
    layer = ".".join(hook_name.split(".")[:2]) if hook_name.startswith("blocks.") else "blocks.0"
    known = subject.hooks
    for pair in TRANSCODER_HOOKS:
        names = f"{layer}.{pair[0]}", f"{layer}.{pair[1]}"
        if all(name in known for name in names):
            return names
    raise HusaiError(
        f"subject '{subject.name}': no MLP with hooks for input and output at {layer}, on which "
        "the transcoder of the stress tests could be trained"
    )
