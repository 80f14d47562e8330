"""A model under study: hook points, tokens, activations, and its output with these replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from husai.errors import HusaiError, nearest
from husai.subjects import tokenizer as tokenizers
from husai.subjects.padding import batches, padded

POSITIONS = ("all", "last")
NOT_PER_TOKEN = ("hook_pattern", "hook_attn_scores", "hook_rot_q", "hook_rot_k", "hook_scale")


class _AllCaptured(Exception):
    """Raised inside the last wanted hook, so that nothing behind it is computed."""


class Pass(NamedTuple):
    """Activations of one forward pass."""

    rows: list[int]
    """Numbers of the inputs, in the order of the batch."""
    lengths: list[int]
    """Tokens of each input; what lies behind them is padding."""
    values: dict[str, torch.Tensor]
    """``{hook: (B, T, d)}``, float32, on the subject's device."""


class Subject:
    """A model, its tokenizer when it reads text, its activations and its output.

    Attributes
    ----------
    name, kind : str
    task : {"next_token", "embedding", "answer"}
        What the model puts out: logits of the next token, a normalised mean-pooled embedding, or
        logits of the answer.
    d_model, n_ctx : int
    config : dict
        Contents of ``config.json``.
    model : HookedTransformer or TransformerBridge
    tokenizer : tokenizers.Tokenizer or None
    """

    def __init__(
        self,
        name: str,
        kind: str,
        model: Any,
        tokenizer: Any = None,
        config: dict | None = None,
    ):
        self.name, self.kind, self.model, self.tokenizer = name, kind, model, tokenizer
        self.config = config or {}
        self.d_model = int(model.cfg.d_model)
        own = int(self.config.get("n_ctx") or model.cfg.n_ctx)
        self.n_ctx = min(own, int(self.config.get("spec", {}).get("n_ctx") or own))
        self.task = self.config.get("task") or ("answer" if kind == "modular" else "next_token")
        self.device = next(model.parameters()).device
        self.special = tokenizers.Special.of(tokenizer, self.config.get("special"))

    @property
    def hooks(self) -> list[str]:
        """Names of the hook points that hold one vector per token."""
        return [n for n in self.model.hook_dict if n.rsplit(".", 1)[-1] not in NOT_PER_TOKEN]

    def check_hooks(self, names: Sequence[str]) -> list[str]:
        """Return ``names`` as a list.

        Raises
        ------
        HusaiError
            The subject lacks one of these hooks; the hooks that it has are named.
        """
        known = self.hooks
        for name in names:
            if name not in known:
                ends = ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out")
                streams = [h for h in known if h.endswith(ends)]
                raise HusaiError(
                    f"subject '{self.name}': no hook '{name}'{nearest(name, known)}; it has "
                    f"{', '.join(streams)} ({len(known)} in all)"
                )
        return list(names)

    def width(self, hook_name: str) -> int:
        """Number of values per token at a hook."""
        self.check_hooks([hook_name])
        one = torch.zeros((1, 1), dtype=torch.int64)
        return self.capture(one, [hook_name])[hook_name].shape[-1]

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
        """Token ids of each text, int64 ``(n_tokens,)``, at most ``min(max_tokens, n_ctx)``.

        A causal model keeps the end of a longer text, an encoder its beginning; the tokens that the
        model's own tokenizer puts around a text are kept.

        Raises
        ------
        HusaiError
            The subject reads numbers, not text.
        """
        if self.tokenizer is None:
            raise HusaiError(
                f"subject '{self.name}': reads numbers, not text; give it token ids or use a "
                "language subject"
            )
        limit = self.n_ctx if max_tokens is None else min(max_tokens, self.n_ctx)
        keep = "start" if self.task == "embedding" else "end"
        return tokenizers.encode(self.tokenizer, texts, limit, keep, self.special)

    def usable(self, tokens: torch.Tensor) -> torch.Tensor:
        """Positions that SAEs are trained on, bool ``(n, T)``: for a modular subject "=" alone;
        otherwise every token but the first of a context, special tokens and padding.
        """
        usable = torch.zeros_like(tokens, dtype=torch.bool)
        if self.task == "answer":
            usable[:, -1] = True
            return usable
        usable[:, 1:] = tokens[:, 1:] >= 0
        if self.special.ids:
            usable &= ~torch.isin(tokens, torch.tensor(self.special.ids, device=tokens.device))
        return usable

    @torch.no_grad()
    def capture(self, tokens: torch.Tensor, hook_names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Activations of one batch of token ids ``(B, T)``: ``{hook: (B, T, d)}`` float32 on the
        subject's device. Ids of ``PADDING`` are not looked at.

        The forward pass ends at the last hook wanted; hooks with a head axis are flattened to
        ``n_heads * d_head``."""
        caught: dict[str, torch.Tensor] = {}
        wanted = list(dict.fromkeys(hook_names))

        def keep(name):
            def at_hook(value, hook):
                caught[name] = self._per_token(value, tokens, name)
                if len(caught) == len(wanted):
                    raise _AllCaptured

            return at_hook

        try:
            self._forward(tokens, {name: keep(name) for name in wanted})
        except _AllCaptured:
            return caught
        raise self._silent(next(name for name in wanted if name not in caught))

    @torch.no_grad()
    def output(
        self,
        tokens: torch.Tensor,
        hook_name: str | None = None,
        replace: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """What the model puts out for token ids ``(B, T)``; ``replace`` maps the activations at
        ``hook_name``, float32 ``(B, T, d)``, to those that the model goes on with.

        Returns
        -------
        Tensor
            By ``task``: logits of the next token ``(B, T, d_vocab)``; the mean of the last layer
            over tokens, of norm 1, ``(B, d_model)``; or logits of the answer ``(B, d_vocab_out)``.
        """
        hooks = {}
        if hook_name is not None:
            self.check_hooks([hook_name])
            reached = []

            def put(value, hook):
                reached.append(True)
                replaced = replace(self._per_token(value, tokens, hook_name))
                return replaced.to(value).view(value.shape)

            hooks = {hook_name: put}
        out = self._forward(tokens, hooks)
        if hooks and not reached:
            raise self._silent(hook_name)
        if self.task == "answer":
            return out[:, -1].float()
        if self.task == "next_token":
            return out.float()
        mask = (tokens >= 0).to(out.device).unsqueeze(-1)
        mean = (out.float() * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def _forward(self, tokens: torch.Tensor, hooks: dict[str, Callable]) -> torch.Tensor:
        """One forward pass with functions at hook points: logits, or an encoder's last layer."""
        tokens = tokens.to(self.device)
        mask, ids = (tokens >= 0).long(), tokens.clamp(min=0)
        points = [(self.model.hook_dict[name], function) for name, function in hooks.items()]
        try:
            for point, function in points:
                point.add_hook(function)
            if self.task == "embedding":  # the head that predicts masked tokens is left out
                encoder = self.model.original_model.base_model
                return encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            # Right padding never reaches a causal model's real tokens: TransformerLens' own models
            # do without a mask.
            bridged = hasattr(self.model, "original_model")
            return self.model(ids, attention_mask=mask) if bridged else self.model(ids)
        finally:
            for point, _ in points:
                point.remove_hooks()

    def _silent(self, hook_name: str) -> HusaiError:
        return HusaiError(
            f"subject '{self.name}': hook '{hook_name}' is never computed by this model; choose "
            "another of its hooks"
        )

    def _per_token(self, value: Any, tokens: torch.Tensor, name: str) -> torch.Tensor:
        shape = getattr(value, "shape", ())
        if len(shape) < 3 or tuple(shape[:2]) != tuple(tokens.shape):
            raise HusaiError(
                f"subject '{self.name}': hook '{name}' holds no vector per token (its shape is "
                f"{tuple(shape)}); choose another of its hooks"
            )
        return value.float().flatten(2)

    def passes(
        self,
        inputs: torch.Tensor | Sequence[str] | Sequence[np.ndarray],
        hook_names: Sequence[str],
        batch_size: int = 64,
        max_tokens: int | None = None,
    ) -> Iterator[Pass]:
        """Forward passes ``(B, T, d)`` over inputs grouped by length; see :meth:`activations`."""
        names = self.check_hooks(hook_names)
        ids = self._ids(inputs, max_tokens)
        lengths = [len(i) for i in ids]
        for rows in batches(lengths, batch_size * self.n_ctx):
            values = self.capture(padded([ids[r] for r in rows]), names)
            yield Pass(rows, [lengths[r] for r in rows], values)

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
            Keep so many tokens of a text (at most ``n_ctx``); see :meth:`encode`.
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
        if positions not in POSITIONS:
            raise HusaiError(f"positions: '{positions}' is not one of {', '.join(POSITIONS)}")
        out: dict[str, list] = {name: [None] * len(inputs) for name in hook_names}
        for rows, lengths, values in self.passes(inputs, hook_names, batch_size, max_tokens):
            for name, of_hook in values.items():
                taken = _taken(of_hook, lengths, positions)
                if not all(torch.isfinite(r).all() for r in taken):
                    raise HusaiError(
                        f"subject '{self.name}': NaN or infinite activations at '{name}'; train "
                        "or load the subject again"
                    )
                for row, value in zip(rows, taken, strict=True):
                    out[name][row] = value
            if progress is not None:
                progress(len(rows))
        whole = positions == "last" or isinstance(inputs, torch.Tensor)
        return {name: torch.stack(v) if v and whole else v for name, v in out.items()}

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


def _taken(values: torch.Tensor, lengths: list[int], positions: str) -> Sequence[torch.Tensor]:
    """The asked positions of each input of a pass, on the CPU."""
    if positions == "all":
        return [v[:n] for v, n in zip(values.cpu(), lengths, strict=True)]
    ends = torch.tensor(lengths, device=values.device)
    return values[torch.arange(len(lengths), device=values.device), ends - 1].cpu()
