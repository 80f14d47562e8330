"""Codes of a text: those of its tokens, averaged, as SAEBench's sparse probing and CE-Bench do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

CHUNK_VALUES = 1 << 20
"""Values of a code held at a time on a CPU: 4 MB of float32, what a core's cache holds. A GPU gets
64 times as many, as it works on them all at once."""


def pooled(
    encode: Callable[[torch.Tensor], torch.Tensor],
    tokens: Any,
    offsets: torch.Tensor,
    width: int,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Mean over the tokens of each text of what ``encode`` makes of them, ``(n_texts, width)``
    float32 on ``device``; a few texts at a time.

    ``encode`` maps ``(n, d)`` float32 on ``device`` to ``(n, width)``. ``tokens (n_tokens, d)`` is
    anything whose ``[start:stop]`` gives rows of any number format, and text i is its rows
    ``offsets[i]:offsets[i + 1]``, at least one; offsets are int64.
    """
    out = torch.empty(len(offsets) - 1, width, device=device)
    for first, last in blocks(offsets, width, device):
        code = encode(rows_of(tokens, offsets, first, last, device))
        out[first:last] = mean_of_texts(code, offsets[first : last + 1])
    return out


def blocks(
    offsets: torch.Tensor, width: int, device: str | torch.device = "cpu"
) -> Iterator[tuple[int, int]]:
    """Ranges of whole texts whose codes of that width are held at a time: as many texts as fit, at
    least one.

    ``offsets`` is int64 ``(n_texts + 1,)``: the first row per text, then the number of rows.
    """
    values = CHUNK_VALUES if torch.device(device).type == "cpu" else 64 * CHUNK_VALUES
    first, chunk, n_texts = 0, max(values // width, 1), len(offsets) - 1
    while first < n_texts:
        end = int(offsets[first]) + chunk
        fitting = int(torch.searchsorted(offsets, end, right=True)) - 1
        last = min(max(fitting, first + 1), n_texts)
        yield first, last
        first = last


def rows_of(
    tokens: Any, offsets: torch.Tensor, first: int, last: int, device: str | torch.device
) -> torch.Tensor:
    """Tokens ``(n, d)`` of the texts ``first <= i < last``, float32; see :func:`pooled`."""
    return tokens[int(offsets[first]) : int(offsets[last])].to(device).float()


def mean_of_texts(code: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Means ``(n_texts, width)`` float32 over the rows of each text of ``code (n, width)``; text i
    is rows ``offsets[i]:offsets[i + 1]``, counted from ``offsets[0]``.

    Each mean is summed in the order of its rows, whatever the device."""
    if len(code) == len(offsets) - 1:  # one row each
        return code.float()
    starts = (offsets[:-1] - offsets[0]).to(code.device)
    rows = torch.arange(len(code), device=code.device)
    return torch.nn.functional.embedding_bag(rows, code.float(), starts, mode="mean")
