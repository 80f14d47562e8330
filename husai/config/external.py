"""Sections of the configuration on external benchmarks and on SAEs that are brought."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from husai.config.fields import Name, PositiveInt, Section, Seed


class Drawn(Section):
    """Confirmation data sets drawn by a rule from the hash of the configuration, before any weights
    exist, from families that took no part in the selection.
    """

    draw: PositiveInt = Field(description="how many; as many families as possible are in it")
    among: list[str] | Literal["all"] = Field(
        "all",
        description="data sets to draw from; the training text keeps clear of them all, so that "
        "another draw trains nothing again",
    )
    salt: Seed = Field(0, description="part of what is hashed: another number, another draw")


def _form(value: object) -> str:
    return "one" if isinstance(value, str) else "each" if isinstance(value, list) else "block"


class DataSets(Section):
    """Which probing data sets are evaluated; names as in sae-probes, e.g. 87_glue_cola."""

    selection: list[str] | Literal["all"] = Field(
        description="split A: data sets that may choose the candidate; 'all' is half of the "
        "families, less the data sets of `ood`"
    )
    confirmation: Annotated[
        Annotated[Literal["rest"], Tag("one")]
        | Annotated[list[str], Tag("each")]
        | Annotated[Drawn, Tag("block")],
        Discriminator(_form),
    ] = Field(
        description="split B, other families: data sets that confirm it; 'rest' is the other half"
    )
    ood: list[str] = Field(
        description="data sets with a shipped out-of-domain twin, none of them in `selection`"
    )
    max_rows: PositiveInt | None = Field(None, description="use the first rows only; null for all")


class GateProbe(Section):
    """The probe that the strict policy reads."""

    gate_k: PositiveInt = Field(
        16, description="the fixed k of the strict policy; must be one of ks"
    )
    penalty: Literal["l1", "l2"] = Field("l1", description="penalty of the SAE probes")
    pooling: Literal["mean", "last"] = Field(
        "mean",
        description="what a probe reads of a row: the mean over its tokens (of their codes or "
        "activations), as SAEBench, or the last token, as sae-probes",
    )


class Probes(GateProbe):
    """How the data sets of one split are probed."""

    engine: Literal["fast", "official"] = Field(
        "fast", description="engine of frontier and scaling"
    )
    ks: list[PositiveInt] = Field(
        [1, 2, 5, 16, 128], min_length=1, description="numbers of latents a probe may use"
    )
    dense_k: PositiveInt = Field(
        128,
        description="the k at which SAEs are compared with the dense probe; must be one of ks; an "
        "SAE with fewer latents is probed on all of them",
    )


class Probing(Probes):
    """Sparse probing (SAEBench)."""

    confirmation_engine: Literal["fast", "official"] = Field(
        "official",
        description="engine of the candidate's sparse probing; out of domain always uses the fast "
        "one",
    )


class CEBench(Section):
    """Contrastive pairs."""

    source: Literal["embedded", "hub"] = Field(
        "embedded", description="pairs from the probing data sets, or the hub's contrastive stories"
    )
    hub_version: str = Field(
        "GulkoA/contrastive-stories-v4", description="hub data set when source is hub"
    )
    n_pairs: PositiveInt = Field(
        100, description="pairs for selection, and as many for confirmation"
    )
    max_tokens: PositiveInt = Field(128, description="tokens read of each story")


class FaithfulnessSection(Section):
    """What the subject loses when the reconstruction takes the place of its activations."""

    n_texts: PositiveInt = Field(300, description="held-out contexts that SAEs are spliced into")
    text_seed: Seed = Field(0, description="seed of the choice of contexts")


class BroughtSAE(Section):
    """SAEs of another trainer (SAELens, dictionary_learning, sparsify, HUSAI) that enter frontier,
    selection, confirmation and gate.
    """

    name: Name | None = Field(None, description="name in tables; null takes that of the path")
    path: str | list[str] = Field(
        description="a checkpoint, a folder of seed*/ checkpoints, or a list of either: the "
        "members of one ensemble; "
        "absolute, or relative to the folder of results/"
    )
    subject: Name = Field(
        description="subject whose activations it reads; that of external.subject"
    )
    hook: Name = Field(description="hook point it reads")
    confirmation: str | list[str] = Field(
        [],
        description="members that took no part in the choice, for the confirmation: 8 for the "
        "strict policy; without them its integrity gate fails",
    )


class External(Section):
    """External benchmarks of the language subject."""

    subject: Name = Field("language", description="subject name")
    datasets: DataSets
    probing: Probing
    cebench: CEBench
    faithfulness: FaithfulnessSection = Field(default_factory=FaithfulnessSection)
    candidates: list[BroughtSAE] = Field(
        [], description="SAEs you bring, compared with those trained here"
    )
