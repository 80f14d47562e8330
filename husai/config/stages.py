"""Sections of the configuration on the stages of a run, from the baseline to the gate."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from husai.config.fields import (
    Architecture,
    CalibratedOrInt,
    Fraction,
    Name,
    OneOrPerSubject,
    OnSubjects,
    PositiveInt,
    Section,
    Seed,
    Seeds,
)

Stage = Literal["baseline", "ablations", "calibration", "consistency", "frontier", "scaling"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Planted(Section):
    """Synthetic activations with a known dictionary: do SAEs find it?"""

    d_in: PositiveInt = Field(64, description="width of the synthetic activations")
    n_features: PositiveInt = Field(128, description="features planted")
    l0: PositiveInt = Field(8, description="features active in a row, and k of the SAEs")
    d_sae: PositiveInt = Field(128, description="latents of the SAEs")
    steps: PositiveInt = Field(800, description="training steps")


class Baseline(OnSubjects):
    """Trained SAEs against every null (phase 4a). The cycle3 policy reads the first subject."""

    d_sae: OneOrPerSubject = Field(description="latents; one number, or one per subject")
    k: OneOrPerSubject = Field(description="active latents per row; one number, or one per subject")
    seeds: list[Seed] = Field(
        min_length=3, description="seeds of the ensemble and of its frozen-decoder control"
    )
    planted: Planted = Field(default_factory=Planted)


class Ablations(OnSubjects):
    """Grids over k at fixed d_sae and over d_sae at fixed k (phase 4c)."""

    k: list[PositiveInt] = Field(min_length=1, description="values of k, at d_sae = k_at_d_sae")
    k_at_d_sae: OneOrPerSubject = Field(
        description="d_sae of the k grid; one number, or one per subject"
    )
    d_sae: list[PositiveInt] = Field(min_length=1, description="values of d_sae, at k = d_sae_at_k")
    d_sae_at_k: PositiveInt = Field(description="k of the d_sae grid")
    seeds: list[Seed] = Field(min_length=3, description="seeds of every condition")


class Calibration(Section):
    """Adaptive L0: search k, retrain the choice on fresh seeds beside a control at the default k,
    match L0 elsewhere.
    """

    subject: Name = Field(description="subject name")
    d_sae: PositiveInt = Field(description="latents")
    k: list[PositiveInt] = Field(min_length=2, description="candidates for k")
    default_k: PositiveInt = Field(description="k of the matched control")
    seeds: list[Seed] = Field(min_length=3, description="seeds of the search")
    retrain_seeds: list[Seed] = Field(
        min_length=3, description="fresh seeds of the retrained choice and its control"
    )
    min_explained_variance: Fraction = Field(
        description="a candidate below this held-out explained variance is not eligible"
    )
    match_architectures: list[Literal["relu", "jumprelu"]] = Field(
        description="architectures whose L0 is matched to the chosen k"
    )


class Consistency(OnSubjects):
    """Seeds trained with an alignment penalty to a reference decoder (assignment v2)."""

    d_sae: OneOrPerSubject = Field(description="latents; one number, or one per subject")
    k: OneOrPerSubject = Field(description="active latents per row; one number, or one per subject")
    weights: list[Annotated[float, Field(ge=0)]] = Field(
        min_length=1, description="values of lambda; 0 is the control"
    )
    interval: PositiveInt = Field(50, description="steps between two matchings")
    seeds: list[Seed] = Field(min_length=3, description="seeds; the first is the reference")
    max_ev_drop: Fraction = Field(0.05, description="accepted loss of explained variance")


class Consensus(Section):
    """One SAE out of several: the latents that recur in a group of seeds, averaged and refitted.
    Each seed of the recipe stands for a group of its own, and no two groups share a seed.
    """

    groups: int | None = Field(
        None, ge=3, description="groups, one SAE each; null makes one per seed of the frontier"
    )
    members: int = Field(4, ge=2, description="SAEs of a group")
    min_share: float = Field(
        0.5, gt=0, le=1, description="share of a group's members in which a latent must occur"
    )
    d_sae: PositiveInt = Field(
        description="latents of a member; the recipe's own `d_sae` is how many recurring ones are "
        "kept"
    )


class FrontierRecipe(Section):
    """A recipe of its own; what it leaves out is as in `training` of the subject."""

    architecture: Architecture = Field(description="architecture")
    d_sae: PositiveInt = Field(description="latents")
    l0: CalibratedOrInt = Field(
        description="k of the TopK family, the L0 aimed at of the others; 'calibrated' takes the "
        "choice of the calibration stage"
    )
    sparsity_coefficient: float | None = Field(
        None,
        gt=0,
        description="coefficient of the sparsity penalty (relu, jumprelu) that is known to give "
        "`l0`; null searches it, for the price of five to eight trainings",
    )
    steps: PositiveInt | None = Field(None, description="optimiser steps")
    batch_size: PositiveInt | None = Field(None, description="rows per step")
    learning_rate: float | None = Field(None, gt=0, description="Adam learning rate")
    decay_fraction: Fraction | None = Field(
        None, description="share of the steps with linear decay to zero"
    )
    aligned: bool = Field(
        False, description="inner product of each latent's encoder and decoder held at 1"
    )
    weight_decay: float = Field(
        0.0, ge=0, description="weight of the squared encoder weights in the loss"
    )
    whitening: bool = Field(
        False, description="training on whitened rows, folded into the weights when saved"
    )
    frozen_encoder: bool = Field(
        False, description="a control: encoder weights stay where they started"
    )
    soft_frozen: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="a control: smallest cosine of a decoder row to its start (0.8 in "
        "2602.14111); 0 leaves it free",
    )
    consensus: Consensus | None = Field(
        None, description="a consensus of several seeds in place of single SAEs"
    )

    def given(self) -> dict[str, Any]:
        """What the entry says beyond architecture, width and L0, as fields of a recipe."""
        values = self.model_dump(exclude={"architecture", "d_sae", "l0", "consensus"})
        if self.consensus is not None:
            made_of = self.consensus.model_dump(exclude={"groups"})
            values |= {f"consensus_{key}": value for key, value in made_of.items()}
        return {key: value for key, value in values.items() if value is not None}


class Frontier(Section):
    """Recipes compared, each with a frozen-decoder control at its width and L0."""

    architectures: list[Architecture] = Field(min_length=1, description="architectures compared")
    d_sae: PositiveInt = Field(description="latents")
    k: CalibratedOrInt = Field(
        description="L0 of every architecture; 'calibrated' takes the choice of the calibration "
        "stage"
    )
    recipes: list[FrontierRecipe] | None = Field(
        None,
        min_length=1,
        description="what is compared in place of `architectures` at one `d_sae` and `k`; null "
        "compares those",
    )
    seeds: list[Seed] = Field(min_length=3, description="seeds of every recipe")


class Scaling(Section):
    """Token budget x hook x d_sae."""

    architecture: Literal["topk", "batchtopk"] = Field("topk", description="architecture scaled")
    token_budgets: list[PositiveInt] = Field(min_length=1, description="activation rows trained on")
    hooks: list[Name] = Field(min_length=1, description="hook points")
    d_sae: list[PositiveInt] = Field(min_length=1, description="latents")
    k: CalibratedOrInt = Field(description="active latents per row")
    seeds: list[Seed] = Field(min_length=3, description="seeds of every condition")


class SelectionSection(Section):
    """How one candidate is chosen from frontier and scaling."""

    min_seeds: PositiveInt = Field(
        5, description="strict selector: a condition with fewer seeds cannot be chosen"
    )
    cycle3_min_seeds: PositiveInt = Field(
        3, description="cycle3 selector: the same, as in the original"
    )


class Confirmation(Section):
    """The selected candidate, trained again on fresh seeds and measured on held-out data."""

    seeds: Seeds = Field(
        description="fresh seeds, named or drawn; the strict policy wants at least 8, and drawn ones "
        "for a release"
    )
    force: bool = Field(
        False, description="allow a second attempt for one config hash; it is marked in the report"
    )


class Stress(Section):
    """Stress tests of the candidate."""

    seeds: Seeds = Field(
        description="fresh seeds of the randomised-subject SAEs and the transcoder; strict wants 5"
    )
    transcoder_hooks: list[Name] = Field(
        description="[MLP input, MLP output] of the transcoder", min_length=2, max_length=2
    )
    transcoder_subject: Name = Field("language", description="subject of the transcoder")


class RunEnd(Section):
    """How a run ends."""

    fail_on_gate_fail: bool = Field(
        False, description="exit non-zero, after report and log, when the strict gate fails"
    )


class SelfTest(Section):
    """The proof that the gate can say no."""

    null_campaigns: PositiveInt = Field(
        5000, description="simulated campaigns for the false-pass rate"
    )


class GateSection(SelfTest, RunEnd):
    """The decision."""

    policies: list[str] = Field(
        ["cycle3", "strict"], description="policies evaluated: names of shipped policies, or files"
    )
