"""Models under study behind one interface: activations at given hooks for given inputs. Only this
room knows TransformerLens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from husai.errors import HusaiError, nearest

KINDS = ("modular", "language", "hub")
TOKENIZER = "tokenizer.json"
PATTERNS = ("hook_pattern", "hook_attn_scores", "hook_rot_q", "hook_rot_k")


class _AllCaptured(Exception):
    """Raised inside the last wanted hook, so that nothing behind it is computed."""


class Subject:
    """A trained model, its tokenizer when it reads text, and its activations.

    Attributes
    ----------
    name, kind : str
    d_model, n_ctx : int
    config, metrics : dict
        Contents of ``config.json`` and ``metrics.json``.
    model : HookedTransformer
    tokenizer : tokenizers.Tokenizer or None
    """

    def __init__(
        self,
        name: str,
        kind: str,
        model: Any,
        tokenizer: Any = None,
        config: dict | None = None,
        metrics: dict | None = None,
    ):
        self.name, self.kind, self.model, self.tokenizer = name, kind, model, tokenizer
        self.config, self.metrics = config or {}, metrics or {}
        self.d_model = int(model.cfg.d_model)
        self.n_ctx = min(
            int(model.cfg.n_ctx), int(self.config.get("spec", {}).get("n_ctx") or model.cfg.n_ctx)
        )
        self.device = next(model.parameters()).device

    @property
    def hooks(self) -> list[str]:
        """Names of the hook points that hold one vector per token."""
        return [
            name
            for name in self.model.hook_dict
            if name.rsplit(".", 1)[-1] not in PATTERNS and not name.endswith("hook_scale")
        ]

    def hook_names(self) -> list[str]:
        """Same as :attr:`hooks`."""
        return self.hooks

    def check_hooks(self, names: Sequence[str]) -> list[str]:
        """Return ``names``; one the subject lacks is an error that names the known ones."""
        known = self.hooks
        for name in names:
            if name not in known:
                streams = [h for h in known if "resid" in h or "mlp_out" in h or "attn_out" in h]
                raise HusaiError(
                    f"subject '{self.name}': no hook '{name}'{nearest(name, known)}; it has "
                    f"{', '.join(streams)} ({len(known)} in all)"
                )
        return list(names)

    def width(self, hook_name: str) -> int:
        """Number of values per token at a hook."""
        self.check_hooks([hook_name])
        return self.capture(torch.zeros((1, 1), dtype=torch.int64), [hook_name])[hook_name].shape[
            -1
        ]

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
        """Token ids of each text, the last ``min(max_tokens, n_ctx)`` of them (truncated left)."""
        from husai.subjects import tokenizer

        if self.tokenizer is None:
            raise HusaiError(
                f"subject '{self.name}': reads numbers, not text; give it token ids or use a "
                "language subject"
            )
        limit = self.n_ctx if max_tokens is None else min(max_tokens, self.n_ctx)
        return tokenizer.encode(self.tokenizer, texts, limit)

    @torch.no_grad()
    def capture(self, tokens: torch.Tensor, hook_names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Activations of one batch of token ids ``(B, T)``: ``{hook: (B, T, d)}`` float32 on the
        subject's device.

        The forward pass ends at the last hook wanted; hooks with a head axis are flattened to
        ``n_heads * d_head``."""
        caught: dict[str, torch.Tensor] = {}
        wanted = list(dict.fromkeys(hook_names))

        def keep(value, hook):
            caught[hook.name] = value.float().flatten(2)
            if len(caught) == len(wanted):
                raise _AllCaptured

        try:
            self.model.run_with_hooks(
                tokens.to(self.device),
                return_type=None,
                fwd_hooks=[(name, keep) for name in wanted],
            )
        except _AllCaptured:
            return caught
        silent = [name for name in wanted if name not in caught]
        raise HusaiError(
            f"subject '{self.name}': hook '{silent[0]}' is never computed by this model; choose "
            "another of its hooks"
        )

    def activations(
        self,
        inputs: torch.Tensor | Sequence[str] | Sequence[np.ndarray],
        hook_names: Sequence[str],
        positions: str = "all",
        batch_size: int = 64,
        max_tokens: int | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> dict[str, Any]:
        """Activations for token ids or texts, one forward pass for all hooks.

        Parameters
        ----------
        inputs : Tensor ``(n, T)`` of ids, or a sequence of texts, or of id arrays of any length
        positions : {"all", "last"}
            Every token, or the last one of each input.
        batch_size : int
            Inputs of ``n_ctx`` tokens per forward pass; of shorter ones proportionally more.
        max_tokens : int, optional
            Keep the last so many tokens of a text (at most ``n_ctx``).
        progress : callable, optional
            Called with the number of inputs done after each pass.

        Returns
        -------
        dict
            Per hook on CPU, float32, in input order: ``(n, d)`` for "last"; for "all" ``(n, T, d)``
            from a tensor of ids and otherwise a list of ``(T_i, d)``.

        Raises
        ------
        HusaiError
            A hook the subject lacks, text for a subject without tokenizer, too many tokens, or
            NaN/Inf activations.
        """
        names = self.check_hooks(hook_names)
        if positions not in ("all", "last"):
            raise HusaiError(f"positions: '{positions}' is not all or last")
        rectangular = isinstance(inputs, torch.Tensor)
        ids = self._ids(inputs, max_tokens)
        out: dict[str, list] = {name: [None] * len(ids) for name in names}
        suspects = set()
        for rows in _batches([len(i) for i in ids], batch_size * self.n_ctx):
            caught = self.capture(_padded([ids[r] for r in rows]), names)
            for name in names:
                values = caught[name]
                if positions == "last":
                    ends = torch.tensor([len(ids[r]) - 1 for r in rows], device=values.device)
                    values = values[torch.arange(len(rows), device=values.device), ends]
                values = values.cpu()
                # Anything not finite makes the sum so; whether that was padding is asked
                # afterwards.
                if not torch.isfinite(values.sum(dtype=torch.float64)):
                    suspects.add(name)
                for j, r in enumerate(rows):
                    out[name][r] = values[j] if positions == "last" else values[j, : len(ids[r])]
            if progress is not None:
                progress(len(rows))
        stacked = {
            name: torch.stack(v) if v and (positions == "last" or rectangular) else v
            for name, v in out.items()
        }
        for name in suspects:
            if not all(torch.isfinite(v).all() for v in stacked[name]):
                raise HusaiError(
                    f"subject '{self.name}': NaN or infinite activations at '{name}'; train or "
                    "load the subject again"
                )
        return stacked

    def _ids(self, inputs, max_tokens: int | None) -> list[np.ndarray]:
        if isinstance(inputs, torch.Tensor):
            ids = list(inputs.cpu().numpy())
        elif len(inputs) and isinstance(inputs[0], str):
            ids = self.encode(inputs, max_tokens)
        else:
            ids = [np.asarray(i) for i in inputs]
        longest = max((len(i) for i in ids), default=0)
        if longest > self.n_ctx:
            raise HusaiError(
                f"subject '{self.name}': an input has {longest} tokens, the model reads at most "
                f"{self.n_ctx}; shorten it"
            )
        return ids


def _batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows grouped by similar length, longest first, each group of at most ``max_tokens`` padded
    tokens.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda r: -lengths[r]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _padded(ids: Sequence[np.ndarray]) -> torch.Tensor:
    """Ids as one int64 matrix padded right with 0: a causal model never looks there."""
    out = np.zeros((len(ids), max(len(i) for i in ids)), dtype=np.int64)
    for row, values in zip(out, ids, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(out)


def load_subject(model_dir: str | Path, device: str | torch.device = "cpu") -> Subject:
    """Load a subject from its ``model/`` directory (or the ``manifest.json`` in it), in evaluation
    mode.

    Raises
    ------
    HusaiError
        When the directory holds no finished subject or its files are damaged.
    """
    from husai.provenance import read_json
    from husai.subjects import transformer
    from husai.subjects.tokenizer import load_tokenizer

    directory = Path(model_dir)
    directory = directory.parent if directory.name == "manifest.json" else directory
    if not (directory / transformer.CONFIG).is_file():
        raise HusaiError(
            f"{directory}: holds no subject (no {transformer.CONFIG}); run 'husai subject' first"
        )
    model, record = transformer.load(directory, device)
    tokenizer = load_tokenizer(directory / TOKENIZER) if (directory / TOKENIZER).is_file() else None
    metrics = (
        read_json(directory / "metrics.json") if (directory / "metrics.json").is_file() else {}
    )
    spec = record.get("spec", {})
    return Subject(
        spec.get("name", directory.parent.name),
        spec.get("kind", "language"),
        model,
        tokenizer,
        record,
        metrics,
    )


def train_subject(
    spec: dict,
    out: str | Path,
    *,
    device: str | torch.device = "cpu",
    parent: str | Path | None = None,
) -> dict:
    """Train or fetch the subject ``spec`` describes, write its ``model/`` directory ``out`` and
    return its metrics.

    See :func:`husai.jobs.subject.subject_job`, which adds the manifest.
    """
    from husai.subjects.make import make_subject

    return make_subject(spec, Path(out), device=device, parent=parent)
