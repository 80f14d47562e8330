"""The SAE itself, for inference: every architecture behind one encode / decode / forward, in the
SAELens orientation.
"""

from __future__ import annotations

from typing import Any

import torch

from husai.errors import HusaiError, nearest
from husai.recipe import READ_ONLY
from husai.sae.kernels import top_k

THRESHOLDED = ("batchtopk", "jumprelu")
TOP_K = ("topk", "transcoder")
KNOWN = (*TOP_K, *THRESHOLDED, "relu", *READ_ONLY)
"""How a code is made; what differs in training alone, as Matryoshka does, is no rule of its own."""
TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
RULES = ("architecture", "k", "cfg", "apply_b_dec_to_input", "transcodes")


class SAE:
    """A trained sparse autoencoder or transcoder: weights and the rule that makes the code sparse.

    The pre-activation is ``(x - b_dec) @ W_enc + b_enc`` (``x @ W_enc + b_enc`` when
    ``apply_b_dec_to_input`` is False), and the code is

    - ``topk``, ``transcoder``: the k largest pre-activations of a row, then ReLU (Gao et al.
      2406.04093, eq. 2), so L0 <= k;
    - ``relu``: the positive pre-activations (Bricken et al. 2023);
    - ``jumprelu``, ``batchtopk``: the positive pre-activations above ``threshold`` (Rajamanoharan
      et al. 2407.14435, eq. 2; for BatchTopK one global threshold, Bussmann et al. 2412.06410,
      eq. 4);
    - ``abstopk``: the k pre-activations of a row that are largest in magnitude, with their signs
      (2510.00404): a latent is active where its code is not 0.

    A ``transcoder`` is TopK with a decoder into another space: its input is never centred by
    ``b_dec``. ``matching_pursuit`` is computed by a subclass
    (:mod:`husai.sae.formats.saelens_classes`).

    Parameters
    ----------
    architecture : str
        One of ``topk``, ``batchtopk``, ``relu``, ``jumprelu``, ``transcoder``, ``abstopk``.
    W_enc : Tensor (d_in, d_sae)
    W_dec : Tensor (d_sae, d_out)
        ``d_out == d_in`` except for a transcoder.
    b_enc : Tensor (d_sae,)
    b_dec : Tensor (d_out,)
    threshold : Tensor (d_sae,) or None
        Needed by ``jumprelu`` and ``batchtopk``.
    k : int or None
        Needed by ``topk``, ``abstopk`` and ``transcoder``.
    cfg : dict
        Metadata that travels with the weights (subject, hook, recipe, ...); never used to compute.
    apply_b_dec_to_input : bool or None
        None: True except for a transcoder.
    transcodes : bool
        What it reconstructs is not its input, whatever the widths; always so for ``transcoder`` and
        where ``d_out`` differs from ``d_in``.

    Raises
    ------
    HusaiError
        Unknown architecture, shapes that do not fit each other, or a missing k or threshold.
    """

    def __init__(
        self,
        architecture: str,
        W_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_enc: torch.Tensor,
        b_dec: torch.Tensor,
        threshold: torch.Tensor | None = None,
        k: int | None = None,
        cfg: dict[str, Any] | None = None,
        apply_b_dec_to_input: bool | None = None,
        transcodes: bool = False,
    ):
        self.architecture = architecture
        self.W_enc, self.W_dec, self.b_enc, self.b_dec = W_enc, W_dec, b_enc, b_dec
        self.threshold, self.k = threshold, None if k is None else int(k)
        self.cfg = dict(cfg or {})
        self.transcodes = bool(transcodes) or architecture == "transcoder"
        if apply_b_dec_to_input is None:
            apply_b_dec_to_input = not self.transcodes
        self.apply_b_dec_to_input = bool(apply_b_dec_to_input)
        problem = self._problem()
        if problem:
            raise HusaiError(f"SAE ({architecture}): {problem}")
        self.transcodes |= self.d_in != self.d_out

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    @property
    def d_out(self) -> int:
        """Width of the reconstruction."""
        return self.W_dec.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.W_dec.dtype

    def pre_activations(self, x: torch.Tensor) -> torch.Tensor:
        """Pre-activations of shape ``(..., d_sae)`` of inputs ``(..., d_in)``, computed in the
        dtype of the weights.
        """
        x = x.to(self.W_enc.dtype)
        if self.apply_b_dec_to_input:
            x = x - self.b_dec
        return x @ self.W_enc + self.b_enc

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Code of shape ``(..., d_sae)``, dense with zeros where a latent is off, of inputs
        ``(..., d_in)``; in the dtype of the weights.
        """
        pre = self.pre_activations(x)
        if self.architecture in TOP_K:
            rows = pre.reshape(-1, self.d_sae)
            values, indices = top_k(rows, self.k)
            return torch.zeros_like(rows).scatter_(-1, indices, values.relu_()).view_as(pre)
        if self.architecture == "abstopk":
            indices = pre.abs().topk(self.k, dim=-1, sorted=False).indices
            return torch.zeros_like(pre).scatter_(-1, indices, pre.gather(-1, indices))
        if self.architecture in THRESHOLDED:
            return pre.relu() * (pre > self.threshold)
        return pre.relu()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Reconstruction ``(..., d_out)`` of codes ``(..., d_sae)``, in the weights' dtype."""
        return z.to(self.W_dec.dtype) @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruction ``(..., d_out)`` of inputs ``(..., d_in)``, in the weights' dtype."""
        return self.decode(self.encode(x))

    __call__ = forward

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> SAE:
        """The same SAE with its weights on another device or in another number format."""
        held = {name: getattr(self, name) for name in TENSORS}
        return self.replaced(
            **{n: t.to(device=device, dtype=dtype) for n, t in held.items() if t is not None}
        )

    def replaced(self, **changes: Any) -> SAE:
        """An SAE with some of the constructor's arguments changed."""
        return SAE(**{name: getattr(self, name) for name in (*TENSORS, *RULES)} | changes)

    def __repr__(self) -> str:
        sparsity = f", k={self.k}" if self.k is not None else ""
        return f"SAE({self.architecture}, d_in={self.d_in}, d_sae={self.d_sae}{sparsity})"

    def _problem(self) -> str | None:
        if self.architecture not in KNOWN:
            close = nearest(self.architecture, KNOWN)
            return f"architecture is not one of {', '.join(KNOWN)}{close}"
        encoder, decoder = tuple(self.W_enc.shape), tuple(self.W_dec.shape)
        if len(encoder) != 2 or len(decoder) != 2 or encoder[1] != decoder[0]:
            return f"W_enc {encoder} must be (d_in, d_sae) and W_dec {decoder} (d_sae, d_out)"
        if self.b_enc.shape != (self.d_sae,) or self.b_dec.shape != (self.d_out,):
            return (
                f"b_enc {tuple(self.b_enc.shape)} must be ({self.d_sae},) and b_dec "
                f"{tuple(self.b_dec.shape)} ({self.d_out},)"
            )
        if self.apply_b_dec_to_input and self.d_in != self.d_out:
            return (
                f"b_dec (width {self.d_out}) cannot be subtracted from the input (width "
                f"{self.d_in}); set apply_b_dec_to_input to False"
            )
        if self.architecture in (*TOP_K, "abstopk") and not (self.k and 1 <= self.k <= self.d_sae):
            return f"k must be between 1 and d_sae = {self.d_sae}, got {self.k}"
        shape = None if self.threshold is None else tuple(self.threshold.shape)
        if self.architecture in THRESHOLDED and shape != (self.d_sae,):
            return f"threshold must have shape ({self.d_sae},), got {shape}"
        return None
