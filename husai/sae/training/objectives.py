"""What is added to the reconstruction loss: AuxK for dead latents, a penalty on large weights, and
alignment to a reference decoder by one-to-one assignment.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment

EXACT_MATCHING_LIMIT = 1024
"""An exact assignment grows with the cube of the rows, and training renews it every few steps."""


def auxk(
    p: dict[str, torch.Tensor],
    found: dict[str, torch.Tensor],
    x: torch.Tensor,
    residual: torch.Tensor,
    dead: torch.Tensor,
    weight: float,
    centred: bool = True,
) -> torch.Tensor:
    """Add one member's AuxK gradient in place and return its loss (Gao et al. 2406.04093, appendix
    A.2).

    The ``k_aux = d_in // 2`` dead latents with the largest raw pre-activations of each row
    reconstruct what the living ones miss: ``weight * min(n_dead / k_aux, 1) * mean ||e -
    e_hat||^2``, with e detached, as in SAELens. No ReLU: a latent that is negative on every row
    would never learn again. Its cost grows with the dead latents only.

    ``p`` and ``found`` are parameters and gradients of one member, without the member axis; ``x``
    (B, d_in) is the centred input, ``residual`` (B, d_out) is ``x_hat - y`` of the living latents,
    ``dead`` (n_dead,) numbers the dead ones, at least one, and ``weight`` is ``auxk_coefficient``.
    With ``centred``, b_dec is taken off the input and has a gradient through the encoder too.
    """
    n_dead, (B, d_out) = dead.numel(), residual.shape
    k_aux = max(1, x.shape[1] // 2)
    scale = weight * min(n_dead / k_aux, 1.0) / (B * d_out)
    W_enc, W_dec = p["W_enc"][dead], p["W_dec"][dead]
    z = torch.addmm(p["b_enc"][dead], x, W_enc.t())
    if n_dead > k_aux:
        values, columns = z.topk(k_aux, dim=1, sorted=False)
        z = torch.zeros_like(z).scatter_(1, columns, values)
    error = torch.addmm(residual, z, W_dec)
    dpre = (error @ W_dec.t()).mul_(2 * scale).mul_(z != 0)
    db_enc = dpre.sum(0)
    found["W_enc"].index_add_(0, dead, dpre.t() @ x)
    found["b_enc"].index_add_(0, dead, db_enc)
    if "W_dec" in found:
        found["W_dec"].index_add_(0, dead, (z.t() @ error).mul_(2 * scale))
    if centred:
        found["b_dec"] -= db_enc @ W_enc
    return error.square().sum() * scale


def weight_decay(
    p: dict[str, torch.Tensor], found: dict[str, torch.Tensor], weight: float
) -> torch.Tensor:
    """Add the gradient of ``weight / d_out * (||W_enc||^2 + ||W_dec||^2)`` in place and return the
    penalty of each member (S,) (2603.04198, where errors are summed over d_out).

    Decoder rows have length one: their part is a constant, without a gradient on the sphere.
    """
    W_enc, (d_sae, d_out) = p["W_enc"], p["W_dec"].shape[1:]
    found["W_enc"].add_(W_enc, alpha=2.0 * weight / d_out)
    squares = torch.linalg.vector_norm(W_enc.flatten(1), dim=1).square()
    return (squares + d_sae) * (weight / d_out)


def matryoshka_groups(d_sae: int) -> tuple[int, ...]:
    """Latents up to the end of each group of a Matryoshka SAE: strictly increasing, ``d_sae`` last.

    Groups hold 1/32, 1/16, 1/8, 1/4 and the rest of the latents, as in 2503.17547; groups that
    rounding leaves empty go.
    """
    ends = [round(d_sae * share / 32) for share in (1, 3, 7, 15, 32)]
    return tuple(e for e in dict.fromkeys(ends) if e)


class ConsistencyPenalty:
    """Alignment of S decoders to one reference: ``weight * (1 - mean_i |cos(w_i, r_pi(i))|)`` with
    pi a one-to-one assignment.

    The assignment is renewed every ``interval`` steps; in between it is held, as the penalty's
    gradient is only exact for a fixed one. ``weight`` is measured against the fraction of variance
    unexplained: 0.1 trades 0.01 of it for 0.1 of mean alignment."""

    def __init__(self, reference: torch.Tensor, weight: float, interval: int):
        self.reference = torch.nn.functional.normalize(reference, dim=1)
        self.weight, self.interval = weight, interval
        self.assignment: torch.Tensor | None = None

    def renew(self, step: int, W_dec: torch.Tensor) -> None:
        """Match the decoders (S, d_sae, d_out) to the reference again when ``step`` is due."""
        if self.assignment is None or step % self.interval == 0:
            self.assign(torch.stack([match_rows(w, self.reference) for w in W_dec]))

    def assign(self, assignment: torch.Tensor) -> None:
        """Hold ``assignment`` (S, d_sae) from now on, in one place in memory for recorded steps."""
        if self.assignment is None:
            self.assignment = torch.empty_like(assignment, device=self.reference.device)
        self.assignment.copy_(assignment)

    def add(self, W_dec: torch.Tensor, dW_dec: torch.Tensor) -> torch.Tensor:
        """Add the gradient at unit rows W_dec (S, d_sae, d_out) in place; gives penalties (S,)."""
        matched = self.reference[self.assignment]
        cosine = (W_dec * matched).sum(-1, keepdim=True)
        dW_dec.addcmul_(matched, cosine.sign(), value=-self.weight / W_dec.shape[1])
        return self.weight * (1.0 - cosine.abs().mean((1, 2)))


def match_rows(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """One-to-one assignment of the rows of A to those of B with large total |cosine|: for each row
    of A its row of B, int64 (n,).

    Exact (Hungarian) up to ``EXACT_MATCHING_LIMIT`` rows. Beyond, pairs that are each other's best
    among the unmatched rows are matched round after round until an exactly solvable rest is left.
    Such locally dominant matching yields at least half the optimal total (Preis 1999), in practice
    within a few per cent, at the cost of a few passes over the similarity matrix. Rows (n, d) have
    length one.
    """
    similarity = (A @ B.t()).abs()
    n = similarity.shape[0]
    match = torch.full((n,), -1, dtype=torch.int64, device=A.device)
    rows = torch.arange(n, device=A.device)
    columns = rows.clone()
    while rows.numel() > EXACT_MATCHING_LIMIT:
        best = similarity.argmax(1)
        chosen = similarity.argmax(0)[best] == torch.arange(rows.numel(), device=A.device)
        match[rows[chosen]] = columns[best[chosen]]
        rest = torch.ones_like(chosen)
        rest[best[chosen]] = False
        rows, columns, similarity = rows[~chosen], columns[rest], similarity[~chosen][:, rest]
    if rows.numel():
        _, best = linear_sum_assignment(similarity.float().cpu().numpy(), maximize=True)
        match[rows] = columns[torch.from_numpy(best).to(A.device)]
    return match
