"""Which tokens of a subject become activation rows, and writing them: random positions of packed
text, or every pair of a modular subject at "=".
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from husai.activations import SPLITS, StoreWriter
from husai.errors import HusaiError
from husai.progress import Progress
from husai.subjects import Subject

TOKENS_PER_PASS = 8192
"""Tokens of one forward pass: large enough that its fixed cost is small, and the activations of one
pass at every hook still fit in a few hundred MB."""


def modular_rows(subject: Subject, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Token rows ``(n, 3)`` and the position read ``(n, 1)`` per split."""
    from husai.subjects import modular

    s = modular.settings(subject.config["spec"])
    data = modular.pairs(s["p"], s["train_fraction"], s["seed"])
    tokens = modular.tokens(data.a, data.b, data.answer, s["p"], s["leak"])
    rows = modular.row_split(s["p"], seed)
    return {
        split: (tokens[r], torch.full((len(r), 1), tokens.shape[1] - 1))
        for split, r in rows.items()
    }


def text_rows(
    subject: Subject,
    model_dir: Path,
    wanted: dict[str, int],
    seed: int,
    per_context: int | None = None,
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Packed contexts ``(n, n_ctx)`` and the positions read in each ``(n, per_context)`` per split:
    never the first of a context, never a special token.

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
    from husai.subjects.contexts import load_contexts

    contexts, chosen = load_contexts(model_dir), {}
    for number, split in enumerate(SPLITS):
        if split not in contexts:
            raise HusaiError(
                f"{model_dir}: its corpus has no '{split}' split; set corpus.{split}_fraction "
                "above 0 and train the subject again"
            )
        tokens = torch.from_numpy(contexts[split])
        generator = torch.Generator().manual_seed(seed * len(SPLITS) + number)
        tokens = tokens[torch.randperm(len(tokens), generator=generator)]
        each = per_context or max(1, tokens.shape[1] // 4)
        chosen[split] = _draw(tokens, subject.usable(tokens), wanted[split], each, generator, split)
    return chosen


def _draw(
    tokens: torch.Tensor,
    usable: torch.Tensor,
    wanted: int,
    per_context: int,
    generator: torch.Generator,
    split: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose ``per_context`` usable positions of as many contexts as are needed, more of each when
    contexts run out.
    """
    enough = usable.sum(1).cumsum(0)
    if int(enough[-1]) < wanted:
        most = int(enough[-1])
        raise HusaiError(
            f"activations.{split}_rows: {wanted} rows asked, the corpus split '{split}' has {most}; ask "
            "for fewer or use more text"
        )
    room = usable.sum(1)
    while int(room.clamp(max=per_context).sum()) < wanted:
        per_context += 1
    needed = int((room.clamp(max=per_context).cumsum(0) < wanted).sum()) + 1
    tokens, usable = tokens[:needed], usable[:needed]
    keys = torch.rand(usable.shape, generator=generator).masked_fill(~usable, -1.0)
    values, positions = keys.topk(min(per_context, keys.shape[1]), dim=1)
    positions = positions.masked_fill(values < 0, -1).sort(dim=1).values
    taken = (positions >= 0).flatten().cumsum(0).view_as(positions)
    return tokens.long(), positions.masked_fill(taken > wanted, -1)


def store_rows(
    subject: Subject,
    hook_name: str,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    path: Path,
    dtype: str,
    split: str,
) -> int:
    """Run the contexts and append the chosen rows in order; positions of -1 are skipped. Returns
    the number of rows.
    """
    per_pass = max(1, TOKENS_PER_PASS // tokens.shape[1])
    progress = Progress(len(tokens), f"{subject.name} {hook_name} {split}: contexts")
    meta = {"subject": subject.name, "hook_name": hook_name, "split": split}
    with StoreWriter(path, subject.width(hook_name), dtype=dtype, meta=meta) as writer:
        for batch, where in zip(tokens.split(per_pass), positions.split(per_pass), strict=True):
            values = subject.capture(batch, [hook_name])[hook_name]
            row, column = torch.nonzero(where >= 0, as_tuple=True)
            writer.append(values[row.to(values.device), where[row, column].to(values.device)].cpu())
            progress.update(len(batch))
        return writer.n_rows


def rows_digest(tokens: torch.Tensor, positions: torch.Tensor) -> str:
    """SHA-256 over which tokens became rows, in their order: equal for every hook of a subject."""
    digest = hashlib.sha256()
    for tensor in (tokens, positions):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
