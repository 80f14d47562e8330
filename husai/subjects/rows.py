"""Which tokens of a subject become activation rows, and writing them: random positions of its text,
or every pair of a modular subject at "="; in memory that does not grow with their number. And
whole texts that no SAE was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from husai.activations import SPLITS, StoreWriter
from husai.activations.order import stream_seed
from husai.errors import HusaiError
from husai.progress import Progress
from husai.provenance import hash_json, sha256_file
from husai.subjects.padding import batches
from husai.subjects.subject import Subject
from husai.subjects.text.contexts import CORPUS, load_contexts

TOKENS_PER_PASS = 8192
"""Tokens of one forward pass: large enough that its fixed cost is small, and the activations of one
pass at every hook still fit in a few hundred MB."""
PASSES_AT_ONCE = 8
"""Passes whose contexts are sorted by length together: texts of an encoder differ in length, and
padding is computed in vain."""
SHARD_BYTES = 1 << 28
"""Shard of a store of text: what is computed again after a kill, at most. 256 MB are seconds of
work on a GPU and minutes on a small machine."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""Token ids ``(B, T)`` and the positions read in each, ``(B, per_context)``, -1 for none."""


class ModularRows:
    """Pairs of one split, read at "="."""

    def __init__(self, tokens: torch.Tensor, key: dict):
        self.tokens, self.n_contexts, self.digest = tokens, len(tokens), hash_json(key)

    def batches(self, n: int) -> Iterator[Batch]:
        """``n`` pairs at once."""
        for tokens in self.tokens.split(n):
            yield tokens, torch.full((len(tokens), 1), tokens.shape[1] - 1)


class TextRows:
    """Random positions of random contexts, chosen block by block as they are read.

    Parameters
    ----------
    contexts : array (n, T)
        Token ids, on disk.
    wanted : int
        Rows.
    per_context : int
        Positions read of one context, more where contexts run out.
    """

    def __init__(
        self,
        subject: Subject,
        contexts: np.ndarray,
        split: str,
        wanted: int,
        per_context: int,
        seed: int,
        key: dict,
    ):
        self._subject, self._contexts = subject, contexts
        self._seed, self.wanted = seed, wanted
        self._order = torch.randperm(len(contexts), generator=self._generator(0))
        room = torch.cat([subject.usable(t).sum(1) for t in self._read(1 << 16)])
        if int(room.sum()) < wanted:
            raise HusaiError(
                f"activations.{split}_rows: {wanted} rows asked, the corpus split '{split}' has "
                f"{int(room.sum())}; ask for fewer or use more text"
            )
        while int(room.clamp(max=per_context).sum()) < wanted:
            per_context += 1
        self._per_context = per_context
        before = room.clamp(max=per_context).cumsum(0)
        self.n_contexts = int((before < wanted).sum()) + 1
        self.digest = hash_json({**key, "wanted": wanted, "per_context": per_context})

    def _generator(self, stream: int) -> torch.Generator:
        """The order of contexts and the choice of positions draw from streams of their own."""
        return torch.Generator().manual_seed(stream_seed(self._seed, stream))

    def _read(self, n: int, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Contexts in their random order, ``n`` at once."""
        for block in self._order[:stop].split(n):
            yield torch.from_numpy(np.asarray(self._contexts[block.numpy()])).long()

    def batches(self, n: int) -> Iterator[Batch]:
        """``n`` contexts at once with the positions read in each, in ascending order."""
        generator, left = self._generator(1), self.wanted
        for tokens in self._read(n, self.n_contexts):
            usable = self._subject.usable(tokens)
            keys = torch.rand(usable.shape, generator=generator).masked_fill(~usable, -1.0)
            values, positions = keys.topk(min(self._per_context, keys.shape[1]), dim=1)
            positions = positions.masked_fill(values < 0, -1).sort(dim=1).values
            taken = (positions >= 0).flatten().cumsum(0).view_as(positions)
            yield tokens, positions.masked_fill(taken > left, -1)
            left -= min(left, int(taken[-1, -1]))


def modular_rows(subject: Subject, seed: int) -> dict[str, ModularRows]:
    """Every pair once, per split."""
    from husai.subjects import modular

    s, _, tokens = modular.every_pair(subject.config["spec"])
    key = {"p": s["p"], "leak": s["leak"], "seed": seed}
    return {
        split: ModularRows(tokens[rows], {**key, "split": split})
        for split, rows in modular.row_split(s["p"], seed).items()
    }


def text_rows(
    subject: Subject,
    model_dir: Path,
    wanted: dict[str, int],
    seed: int,
    per_context: int | None = None,
) -> dict[str, TextRows]:
    """Positions of the subject's corpus that become rows: never the first of a context, never a
    special token; splits share no document.

    Parameters
    ----------
    wanted : dict
        Rows per split.
    per_context : int, optional
        Positions read of one context, as far as there are enough contexts; a quarter of the context
        unless given.

    Raises
    ------
    HusaiError
        A split of the corpus that is empty or has fewer rows.
    """
    contexts, corpus = load_contexts(model_dir), sha256_file(model_dir / CORPUS)
    chosen = {}
    for number, split in enumerate(SPLITS):
        tokens = _split_of(contexts, split, model_dir)
        each = per_context or max(1, tokens.shape[1] // 4)
        own = seed * len(SPLITS) + number
        key = {"corpus": corpus, "split": split, "seed": own}
        chosen[split] = TextRows(subject, tokens, split, wanted[split], each, own, key)
    return chosen


def _split_of(contexts: dict[str, np.ndarray], split: str, model_dir: Path) -> np.ndarray:
    if split not in contexts:
        raise HusaiError(
            f"{model_dir}: its corpus has no '{split}' split; set corpus.{split}_fraction above 0 "
            "and make the subject again"
        )
    return contexts[split]


def store_rows(
    subject: Subject,
    hook_name: str,
    rows: ModularRows | TextRows,
    path: Path,
    dtype: str,
    split: str,
    resume: str | None = None,
) -> int:
    """Run the contexts and append the chosen rows in order; returns their number.

    ``resume`` names what is written: a write of that name that was cut off is gone on with (see
    :class:`husai.activations.StoreWriter`), and the result is the same."""
    progress = Progress(rows.n_contexts, f"{subject.name} {hook_name} {split}: contexts")
    meta = {"subject": subject.name, "hook_name": hook_name, "split": split}
    width = subject.width(hook_name)
    with StoreWriter(
        path, width, dtype=dtype, shard_bytes=SHARD_BYTES, meta=meta, resume=resume
    ) as writer:
        skip = writer.n_rows
        for tokens, positions in rows.batches(_contexts_at_once(rows, subject)):
            count = int((positions >= 0).sum())
            if count > skip:
                writer.append(_rows_of(subject, hook_name, tokens, positions)[skip:])
            skip -= min(skip, count)
            progress.update(len(tokens))
        return writer.n_rows


def _contexts_at_once(rows: ModularRows | TextRows, subject: Subject) -> int:
    width = next(iter(rows.batches(1)))[0].shape[1]
    passes = PASSES_AT_ONCE if subject.task == "embedding" else 1
    return max(1, passes * TOKENS_PER_PASS // width)


def _rows_of(
    subject: Subject, hook_name: str, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """The activations at the chosen positions, ``(n, d)`` on the CPU, in their order."""
    lengths = (tokens >= 0).sum(1).tolist()
    row, column = torch.nonzero(positions >= 0, as_tuple=True)
    out: torch.Tensor | None = None
    for group in batches(lengths, TOKENS_PER_PASS):
        chosen = torch.tensor(group)
        batch = tokens[chosen, : lengths[group[0]]]
        values = subject.capture(batch, [hook_name])[hook_name]
        place = torch.full((len(tokens),), -1)
        place[chosen] = torch.arange(len(group))
        mine = place[row] >= 0
        at = positions[row[mine], column[mine]]
        found = values[place[row[mine]].to(values.device), at.to(values.device)].cpu()
        if out is None:
            out = torch.empty(len(row), found.shape[1])
        out[mine] = found
    return out


def held_out_texts(
    subject: Subject, model_dir: Path, split: str, n: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """At most ``n`` inputs of a split, in random order: token ids ``(n, T)`` int64, and the answers
    ``(n,)`` of a modular subject.

    Raises
    ------
    HusaiError
        The corpus has no such split.
    """
    generator = torch.Generator().manual_seed(seed)
    if subject.task == "answer":
        from husai.subjects import modular

        s, data, tokens = modular.every_pair(subject.config["spec"])
        rows = modular.row_split(s["p"], s["seed"])[split]
        rows = rows[torch.randperm(len(rows), generator=generator)[:n]]
        return tokens[rows], data.answer[rows]
    contexts = _split_of(load_contexts(model_dir), split, model_dir)
    chosen = torch.randperm(len(contexts), generator=generator)[:n].numpy()
    return torch.from_numpy(np.asarray(contexts[chosen])).long(), None
