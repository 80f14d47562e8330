"""A recipe defines an SAE except its seed. Its id is readable, its hash covers every field.

The names of architectures, from :mod:`husai.recipe_problems`, are offered here too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace

from husai.errors import HusaiError, nearest
from husai.provenance import hash_json
from husai.recipe_problems import (  # noqa: F401
    ARCHITECTURES,
    BATCH_TOP_K,
    CALIBRATED,
    FIXED_K,
    MATCHED,
    READ_ONLY,
    recipe_problems,
)

OPTIONS = {
    "aligned": False,
    "weight_decay": 0.0,
    "whitening": False,
    "frozen_encoder": False,
    "soft_frozen": 0.0,
}
"""Options of training, and the value at which each is off. A recipe names only those it uses."""
CONSENSUS = ("consensus_members", "consensus_min_share", "consensus_d_sae")
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
    whitening : bool
        Train on whitened rows (2511.13981); the saved SAE reads and writes raw ones.
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
    consensus_members, consensus_min_share, consensus_d_sae
        A consensus SAE per seed (:mod:`husai.passport.train_consensus`): of so many members, each
        of the width ``consensus_d_sae``, the ``d_sae`` latents that recur in most of them, in at
        least this share. 0 members: a plain recipe.
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
    whitening: bool = False
    frozen_encoder: bool = False
    soft_frozen: float = 0.0
    consistency_weight: float = 0.0
    consistency_interval: int = 50
    reference_seed: int | None = None
    shared_data_order: bool = False
    tag: str = ""
    brought: str = ""
    content: str = ""
    consensus_members: int = 0
    consensus_min_share: float = 0.0
    consensus_d_sae: int = 0

    def __post_init__(self):
        problems = recipe_problems(asdict(self))
        if problems:
            raise HusaiError(f"recipe {self.architecture}-d{self.d_sae}: " + "; ".join(problems))

    @property
    def id(self) -> str:
        """Readable name: ``topk-d1024-k32``, ``relu-d1024-l0_32-frozen``, ``brought-NAME``."""
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
        if self.consensus_members:
            parts.append(f"consensus{self.consensus_members}x{self.consensus_d_sae}")
        if self.tag:
            parts.append(self.tag)
        return "-".join(parts)

    @property
    def options(self) -> list[str]:
        """The options in use, as parts of the id."""
        words = {
            "aligned": self.aligned,
            f"decay{self.weight_decay:g}": self.weight_decay,
            "whitened": self.whitening,
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
        """16 hex digits of the SHA-256 of the canonical JSON of :meth:`to_dict`."""
        return hash_json(self.to_dict())[:16]

    @property
    def needs_calibration(self) -> bool:
        """True while k, the L0 target or the width waits for the JSON file of another job."""
        return CALIBRATED in (self.k, self.l0_target) or self.d_sae == MATCHED

    @property
    def matched_l0(self) -> float:
        """The L0 of a matched control: that measured of a brought SAE, else k or the L0 target."""
        if self.brought:
            return float(min(max(1, round(self.l0_target)), self.d_sae))
        return float(self.k if self.k is not None else self.l0_target)

    def resolve(self, k: int, d_sae: int | None = None) -> Recipe:
        """This recipe with the calibrated k or L0, or a brought SAE's width and L0, filled in."""
        if self.d_sae == MATCHED:
            return replace(self, d_sae=int(d_sae), k=int(k))
        if self.k == CALIBRATED:
            return replace(self, k=int(k))
        if self.l0_target == CALIBRATED:
            return replace(self, l0_target=float(k))
        return self

    def plain_twin(self) -> Recipe:
        """The recipe without the consistency objective, which gives its reference decoder."""
        usual = ("consistency_weight", "consistency_interval", "reference_seed")
        return replace(self, **{name: getattr(Recipe, name) for name in usual})

    @property
    def member(self) -> Recipe:
        """The plain recipe of a consensus SAE's members."""
        return replace(self.without_consensus, d_sae=self.consensus_d_sae)

    @property
    def without_consensus(self) -> Recipe:
        """The same recipe trained plainly, at the width of the consensus SAE."""
        return replace(self, **dict.fromkeys(CONSENSUS, 0))

    def to_dict(self) -> dict:
        """All fields as plain JSON values, without the options that are off and without the fields
        that only brought SAEs or consensus SAEs have, in all others.
        """
        left_out = ("brought", "content", *CONSENSUS, *OPTIONS)
        return {k: v for k, v in asdict(self).items() if v or k not in left_out}

    def describe(self, resolved: Recipe, seeds: Iterable[int]) -> dict:
        """What ``recipe.json`` says of every recipe, trained, failed or brought."""
        return {
            "schema": "husai.recipe/1",
            "id": self.id,
            "hash": self.hash,
            "recipe": self.to_dict(),
            "resolved": resolved.to_dict(),
            "seeds": [int(seed) for seed in seeds],
        }

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """Build from JSON values.

        Raises
        ------
        HusaiError
            A field is unknown; the error names the nearest known one.
        """
        known = [f.name for f in fields(cls)]
        unknown = [k for k in values if k not in known]
        if unknown:
            raise HusaiError(f"recipe: unknown field '{unknown[0]}'{nearest(unknown[0], known)}")
        return cls(**values)


def brought_id(name: str) -> str:
    """Id of the recipe of a brought SAE."""
    return f"brought-{name}"
