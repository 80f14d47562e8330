"""A recipe is everything that defines an SAE except its seed. Its id is readable, its hash covers
every field.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace

from husai.errors import HusaiError, nearest

BATCH_TOP_K = ("batchtopk", "matryoshka")
"""Trained with the k*B largest pre-activations of a batch; exported with one threshold."""
FIXED_K = ("topk", *BATCH_TOP_K, "transcoder")
ARCHITECTURES = ("topk", *BATCH_TOP_K, "relu", "jumprelu", "transcoder")
READ_ONLY = ("abstopk", "matching_pursuit")
"""Architectures of SAEs that are read and compared, but not trained here."""
OPTIONS = {
    "aligned": False,
    "weight_decay": 0.0,
    "frozen_encoder": False,
    "soft_frozen": 0.0,
}
"""Options of training, and the value at which each is off. A recipe names only those it uses."""
CALIBRATED = "calibrated"
MATCHED = "matched"
RANDOM = "-random"  # suffix of a subject's randomised copy


@dataclass(frozen=True)
class Recipe:
    """Definition of an SAE up to its seed.

    Attributes
    ----------
    subject, hook_name : str
        Where the activations come from; ``target_hook_name`` is what a transcoder reconstructs.
    architecture : str
        One of ``topk``, ``batchtopk``, ``matryoshka`` (BatchTopK with nested reconstructions),
        ``relu``, ``jumprelu``, ``transcoder`` (TopK from one hook to another).
    d_sae : int or "matched"
        Number of latents; ``matched``, with ``k: matched``, takes width and L0 of a brought SAE
        once it is imported.
    k : int or "calibrated" or "matched" or None
        Active latents per row (``topk``, ``batchtopk``, ``matryoshka``, ``transcoder``).
    l0_target : float or "calibrated" or None
        ``relu``/``jumprelu``: the sparsity coefficient is searched so that held-out L0 matches this
        number. Of a brought SAE: its L0.
    sparsity_coefficient : float or None
        ``relu``/``jumprelu``: the coefficient itself, when no ``l0_target`` is given.
    steps, batch_size, learning_rate, warmup_fraction, decay_fraction, gradient_clip
        Adam with linear warm-up over the first and linear decay over the last fraction of the
        steps.
    n_rows : int or None
        Token budget: train on the first ``n_rows`` rows of the training split only; None uses all.
    b_dec_init : str
        ``geometric_median``, ``mean`` or ``zero``.
    auxk_coefficient, dead_after_rows
        TopK family: weight of the AuxK loss (0 disables) and rows without firing after which a
        latent is dead.
    frozen_decoder : bool
        Train everything but the decoder, which stays at its initialisation (the ``frozen`` null).
    aligned : bool
        The inner product of each latent's encoder and decoder is 1 (2605.18629).
    weight_decay : float
        Weight of the squared weights of encoder and decoder in the loss (2603.04198). Decoder rows
        have length one here, so that only the encoder feels it.
    frozen_encoder : bool
        Train everything but the encoder's weights (a control of 2602.14111).
    soft_frozen : float
        Smallest cosine of a decoder row to where it started; 0 leaves it free (a control of
        2602.14111, where it is 0.8).
    consistency_weight, consistency_interval, reference_seed
        Hungarian-assignment alignment to the decoder of ``reference_seed`` of the plain twin of
        this recipe.
    shared_data_order : bool
        All seeds read the rows in one order; by default each has its own.
    tag : str
        Readable suffix of the id naming what deviates from the subject's default training.
    brought, content : str
        Name of an SAE that another trainer wrote, and the hash of its files. The fields of the
        optimisation then say how its controls are trained here; how it was trained itself is not
        known.
    """

    subject: str
    hook_name: str
    architecture: str
    d_sae: int | str
    k: int | str | None = None
    l0_target: float | str | None = None
    sparsity_coefficient: float | None = None
    steps: int = 2000
    batch_size: int = 2048
    learning_rate: float = 1.0e-3
    warmup_fraction: float = 0.05
    decay_fraction: float = 0.2
    gradient_clip: float | None = 1.0
    n_rows: int | None = None
    b_dec_init: str = "geometric_median"
    auxk_coefficient: float = 0.03125
    dead_after_rows: int = 200_000
    target_hook_name: str | None = None
    frozen_decoder: bool = False
    aligned: bool = False
    weight_decay: float = 0.0
    frozen_encoder: bool = False
    soft_frozen: float = 0.0
    consistency_weight: float = 0.0
    consistency_interval: int = 50
    reference_seed: int | None = None
    shared_data_order: bool = False
    tag: str = ""
    brought: str = ""
    content: str = ""

    def __post_init__(self):
        problems = recipe_problems(asdict(self))
        if problems:
            raise HusaiError(f"recipe {self.architecture}-d{self.d_sae}: " + "; ".join(problems))

    @property
    def id(self) -> str:
        """Readable name, e.g. ``topk-d1024-k32``, ``relu-d1024-l0_32-frozen`` or
        ``brought-NAME``.
        """
        if self.brought:
            return brought_id(self.brought)
        parts = [self.architecture, *self._size()]
        if self.n_rows is not None:
            parts.append(f"rows{self.n_rows}")
        if self.consistency_weight:
            parts.append(f"lambda{self.consistency_weight:g}")
        parts += self.options
        if self.frozen_decoder:
            parts.append("frozen")
        if self.tag:
            parts.append(self.tag)
        return "-".join(parts)

    @property
    def options(self) -> list[str]:
        """The options in use, as parts of the id."""
        words = {
            "aligned": self.aligned,
            f"decay{self.weight_decay:g}": self.weight_decay,
            "frozenencoder": self.frozen_encoder,
            f"soft{self.soft_frozen:g}": self.soft_frozen,
        }
        return [word for word, used in words.items() if used]

    @property
    def is_control(self) -> bool:
        """Whether weights are held where they started: something to compare with, no candidate."""
        return bool(self.frozen_decoder or self.frozen_encoder or self.soft_frozen)

    def _size(self) -> list[str]:
        """Width and sparsity as parts of the id."""
        if self.d_sae == MATCHED:
            return [MATCHED]
        if self.architecture in FIXED_K:
            sparsity = "kcal" if self.k == CALIBRATED else f"k{self.k}"
        elif self.l0_target is not None:
            sparsity = "l0cal" if self.l0_target == CALIBRATED else f"l0_{self.l0_target:g}"
        else:
            sparsity = f"c{self.sparsity_coefficient:g}"
        return [f"d{self.d_sae}", sparsity]

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON of every field that
        :meth:`to_dict` names.
        """
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def needs_calibration(self) -> bool:
        """True while k, the L0 target or the width waits for a small JSON file that another job
        writes.
        """
        return CALIBRATED in (self.k, self.l0_target) or self.d_sae == MATCHED

    @property
    def matched_l0(self) -> float:
        """The L0 that a matched control shares: the measured one of a brought SAE, else k or the L0
        target.
        """
        if self.brought:
            return float(min(max(1, round(self.l0_target)), self.d_sae))
        return float(self.k if self.k is not None else self.l0_target)

    def resolve(self, k: int, d_sae: int | None = None) -> Recipe:
        """Return this recipe with the calibrated k (or L0 target), or the width and L0 of a brought
        SAE, filled in.
        """
        if self.d_sae == MATCHED:
            return replace(self, d_sae=int(d_sae), k=int(k))
        if self.k == CALIBRATED:
            return replace(self, k=int(k))
        if self.l0_target == CALIBRATED:
            return replace(self, l0_target=float(k))
        return self

    def plain_twin(self) -> Recipe:
        """The same recipe without the consistency objective: where its reference decoder comes
        from.
        """
        return replace(
            self,
            consistency_weight=0.0,
            reference_seed=None,
            consistency_interval=Recipe.consistency_interval,
        )

    def to_dict(self) -> dict:
        """All fields as plain JSON values, without the options that are off and without the fields
        that only a brought SAE has, in all others.
        """
        left_out = ("brought", "content", *OPTIONS)
        return {k: v for k, v in asdict(self).items() if v or k not in left_out}

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """Build from JSON values; an unknown field is an error that names the nearest known one."""
        known = [f.name for f in fields(cls)]
        unknown = [k for k in values if k not in known]
        if unknown:
            raise HusaiError(f"recipe: unknown field '{unknown[0]}'{nearest(unknown[0], known)}")
        return cls(**values)


def brought_id(name: str) -> str:
    """Id of the recipe of a brought SAE."""
    return f"brought-{name}"


def recipe_problems(r: dict) -> list[str]:
    """Everything wrong with the fields of a recipe, as readable phrases; empty when it is sound."""
    out = []
    known = (*ARCHITECTURES, *READ_ONLY) if r["brought"] else ARCHITECTURES
    if r["architecture"] not in known:
        return [f"architecture '{r['architecture']}' is not one of {', '.join(known)}"]
    if MATCHED in (r["d_sae"], r["k"]):
        return (
            []
            if r["d_sae"] == r["k"] == MATCHED and r["architecture"] in FIXED_K
            else ["width and k are matched together, for TopK only"]
        )
    if not isinstance(r["d_sae"], int) or r["d_sae"] < 1:
        return [f"d_sae must be a positive integer, got {r['d_sae']!r}"]
    if r["brought"] and not (r["content"] and isinstance(r["l0_target"], (int, float))):
        return ["a brought SAE needs the hash of its files and its measured L0"]
    if r["architecture"] in FIXED_K:
        k = r["k"]
        if k != CALIBRATED and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
            out.append(f"k must be a positive integer or 'calibrated', got {k!r}")
        elif k != CALIBRATED and k > r["d_sae"]:
            out.append(f"k = {k} is larger than d_sae = {r['d_sae']}")
    elif r["l0_target"] is None and r["sparsity_coefficient"] is None:
        out.append("needs l0_target or sparsity_coefficient")
    if isinstance(r["l0_target"], (int, float)) and not 0 < r["l0_target"] <= r["d_sae"]:
        out.append(f"l0_target must be in (0, d_sae], got {r['l0_target']}")
    for name in ("steps", "batch_size", "consistency_interval"):
        if not isinstance(r[name], int) or r[name] < 1:
            out.append(f"{name} must be a positive integer, got {r[name]!r}")
    for name in ("learning_rate",):
        if not isinstance(r[name], (int, float)) or not r[name] > 0:
            out.append(f"{name} must be a positive number, got {r[name]!r}")
    if r["consistency_weight"] < 0:
        out.append(f"consistency_weight must be >= 0, got {r['consistency_weight']}")
    if r["consistency_weight"] and r["reference_seed"] is None:
        out.append("a consistency objective needs reference_seed")
    if r["weight_decay"] < 0:
        out.append(f"weight_decay must be >= 0, got {r['weight_decay']}")
    if not 0 <= r["soft_frozen"] < 1:
        out.append(f"soft_frozen is a cosine in [0, 1), got {r['soft_frozen']}")
    if r["frozen_encoder"] and (r["aligned"] or r["weight_decay"]):
        out.append("a frozen encoder can be neither aligned nor decayed")
    if r["frozen_decoder"] and (r["frozen_encoder"] or r["soft_frozen"]):
        out.append("a frozen decoder leaves no frozen_encoder or soft_frozen beside it")
    if r["aligned"] and r["architecture"] == "transcoder":
        out.append("aligned needs an encoder and a decoder of one space, not a transcoder's")
    if r["b_dec_init"] not in ("geometric_median", "mean", "zero"):
        out.append(f"b_dec_init '{r['b_dec_init']}' is not geometric_median, mean or zero")
    if (r["architecture"] == "transcoder") != (r["target_hook_name"] is not None):
        out.append("target_hook_name belongs to, and is needed by, architecture transcoder")
    return out
