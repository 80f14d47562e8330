"""The configuration as typed models: every key with its type, default and meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from husai.provenance import hash_json

NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
"""What subjects, hooks, recipes, candidates and policies may be called. Such a name is a folder, a
wildcard of a rule and a word of a command; a dot is allowed (``qwen2.5``), a space is not."""
Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
# 2**53: the largest whole number that a float holds exactly, which every figure becomes somewhere.
PositiveInt = Annotated[int, Field(ge=1, le=2**53)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Architecture = Literal["topk", "batchtopk", "relu", "jumprelu"]
CalibratedOrInt = PositiveInt | Literal["calibrated"]


def _form(value: object) -> str:
    return "each" if isinstance(value, (list, dict)) else "one"


# Told apart by their form, so that a mistake is reported once and not once per form.
OneOrMoreNames = Annotated[
    Annotated[Name, Tag("one")] | Annotated[list[Name], Field(min_length=1), Tag("each")],
    Discriminator(_form),
]
OneOrPerSubject = Annotated[
    Annotated[PositiveInt, Tag("one")] | Annotated[dict[Name, PositiveInt], Tag("each")],
    Discriminator(_form),
]


class Section(BaseModel):
    """A block of the configuration: unknown keys are mistakes, text is never taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OnSubjects(Section):
    """A stage that runs on one subject or on several: some of its numbers may differ from subject
    to subject.
    """

    subject: OneOrMoreNames = Field(description="subject name, or a list of them")

    @property
    def subjects(self) -> list[str]:
        """The subjects in the order given."""
        return [self.subject] if isinstance(self.subject, str) else list(self.subject)

    def at(self, key: str, subject: str) -> int:
        """The value of ``key`` for ``subject``: one number for all, or the subject's own."""
        value = getattr(self, key)
        return value[subject] if isinstance(value, dict) else value


class Compute(Section):
    """Where jobs run. Not part of any recipe: changing it reruns nothing."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N; asking for CUDA where there is none is an error",
    )
    dtype: Literal["float32", "tf32", "bfloat16", "float64"] = Field(
        "float32",
        description="number format of SAE training; tf32 and bfloat16 round the operands of "
        "products, on a GPU, if the gradients stay right",
    )
    train_threads: PositiveInt = Field(
        1,
        description="CPU threads of a training or evaluation job; SAE training gives each its own "
        "seeds, so that its figures do not depend on it",
    )
    gpu_mem_mb: PositiveInt = Field(
        20000, description="GPU memory a GPU job asks of the scheduler, MB"
    )
    mem_mb: PositiveInt = Field(2500, description="main memory a job asks of the scheduler, MB")
    runtime: PositiveInt = Field(240, description="time limit a job asks of the scheduler, minutes")


class ModularSubject(Section):
    """A transformer trained here on (a + b) mod p; tokens [a, b, =], read at '=', the answer never
    in the input.
    """

    kind: Literal["modular"]
    p: PositiveInt = Field(113, description="modulus")
    d_model: PositiveInt = Field(128, description="residual width")
    n_layers: PositiveInt = Field(1, description="layers")
    n_heads: PositiveInt = Field(4, description="attention heads")
    d_mlp: PositiveInt = Field(512, description="MLP width")
    train_fraction: Fraction = Field(0.8, description="share of the p*p pairs trained on")
    target_accuracy: Fraction = Field(
        0.999, description="held-out accuracy at which training stops"
    )
    max_steps: PositiveInt = Field(1500, description="steps after which training gives up")
    batch_size: PositiveInt = Field(2048, description="pairs per step")
    learning_rate: float = Field(2.0e-3, gt=0, description="AdamW learning rate")
    weight_decay: float = Field(1.0, ge=0, description="AdamW weight decay")
    seed: Seed = Field(0, description="seed of initialisation, split and order")
    hooks: list[Name] = Field(
        [], description="hook points whose activations are stored; the first is the default"
    )


class LanguageSubject(Section):
    """A small causal transformer trained here, with its own tokenizer, on the probing data sets'
    training text.
    """

    kind: Literal["language"]
    d_model: PositiveInt = Field(128, description="residual width")
    n_layers: PositiveInt = Field(2, description="layers")
    n_heads: PositiveInt = Field(4, description="attention heads")
    n_ctx: PositiveInt = Field(128, description="context length in tokens")
    vocab_size: PositiveInt = Field(4096, description="size of the byte-level BPE vocabulary")
    tokens: PositiveInt = Field(description="training tokens (all passes)")
    batch_size: PositiveInt = Field(32, description="sequences per step")
    learning_rate: float = Field(2.0e-3, gt=0, description="AdamW learning rate")
    seed: Seed = Field(0, description="seed of tokenizer split, initialisation and order")
    hooks: list[Name] = Field(
        [], description="hook points whose activations are stored; the first is the default"
    )


class PretrainedSubject(Section):
    """A causal model or a text encoder that others trained, loaded through TransformerBridge."""

    kind: Literal["pretrained"]
    model: str = Field(
        description="a hub id (EleutherAI/pythia-70m-deduped), a folder in Hugging Face layout, or "
        "package:NAME/PATH inside an installed package"
    )
    revision: str | None = Field(
        None, description="hub branch, tag or commit; null is the default branch"
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="SHA-256 that the weights must have: of model.safetensors, or over the lines "
        "of sha256sum where there are several files; null accepts any",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="number format of the weights in memory"
    )
    n_ctx: PositiveInt = Field(1024, description="tokens of a context; at most the model's own")
    prepend_bos: bool | None = Field(
        None,
        description="open each text with the beginning-of-sequence token (causal models); null "
        "does what the model's tokenizer does",
    )
    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        None, description="spread a model over several GPUs; null loads it on one device"
    )
    seed: Seed = Field(0, description="seed of the activation sample")
    hooks: list[Name] = Field(
        [], description="hook points whose activations are stored; the first is the default"
    )


class Corpus(Section):
    """Text that language subjects and their SAEs are trained on; never overlaps evaluation text."""

    max_chars_per_row: PositiveInt = Field(1000, description="longer rows are cut here")
    max_rows_per_dataset: PositiveInt = Field(
        2000, description="rows taken from one data set at most"
    )
    held_out_fraction: Fraction = Field(
        0.05, description="share of the documents kept for the held-out loss"
    )


class Activations(Section):
    """How many activation rows are stored per split (language subjects; a modular subject stores
    every pair).
    """

    train_rows: PositiveInt = Field(description="rows that SAEs train on")
    held_out_rows: PositiveInt = Field(description="rows for held-out measurements")
    confirmation_rows: PositiveInt = Field(
        description="rows kept for the confirmation of the candidate"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="number format on disk"
    )


class Training(Section):
    """Optimisation of every SAE on one subject."""

    steps: PositiveInt = Field(description="optimiser steps")
    batch_size: PositiveInt = Field(description="rows per step")
    learning_rate: float = Field(1.0e-3, gt=0, description="Adam learning rate")
    warmup_fraction: Fraction = Field(0.05, description="share of the steps with linear warm-up")
    decay_fraction: Fraction = Field(
        0.2, description="share of the steps with linear decay to zero"
    )
    gradient_clip: float | None = Field(
        1.0, description="gradient norm limit per SAE; null for none"
    )
    auxk_coefficient: float = Field(
        0.03125, ge=0, description="weight of the AuxK loss; 0 for none"
    )
    dead_after_rows: PositiveInt = Field(
        200_000, description="rows without firing after which a latent counts as dead in training"
    )
    b_dec_init: Literal["geometric_median", "mean", "zero"] = Field(
        "geometric_median", description="start of the decoder bias"
    )


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


class DataSets(Section):
    """Which probing data sets are evaluated; names as in sae-probes, e.g. 87_glue_cola."""

    selection: list[str] | Literal["all"] = Field(
        description="split A: data sets that may choose the candidate"
    )
    confirmation: list[str] | Literal["rest"] = Field(
        description="split B, other families: data sets that confirm it"
    )
    ood: list[str] = Field(description="data sets with a shipped out-of-domain twin")
    max_rows: PositiveInt | None = Field(None, description="use the first rows only; null for all")


class GateProbe(Section):
    """The probe that the strict policy reads."""

    gate_k: PositiveInt = Field(
        16, description="the fixed k of the strict policy; must be one of ks"
    )
    penalty: Literal["l1", "l2"] = Field("l1", description="penalty of the SAE probes")


class Probes(GateProbe):
    """How the data sets of one split are probed."""

    engine: Literal["fast", "official"] = Field(
        "fast", description="engine of frontier and scaling"
    )
    ks: list[PositiveInt] = Field(
        [1, 2, 5, 16], min_length=1, description="numbers of latents a probe may use"
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
    candidates: list[BroughtSAE] = Field(
        [], description="SAEs you bring, compared with those trained here"
    )


class Frontier(Section):
    """Architectures at matched L0."""

    architectures: list[Architecture] = Field(min_length=1, description="architectures compared")
    d_sae: PositiveInt = Field(description="latents")
    k: CalibratedOrInt = Field(
        description="L0 of every architecture; 'calibrated' takes the choice of the calibration "
        "stage"
    )
    seeds: list[Seed] = Field(min_length=3, description="seeds of every architecture")


class Scaling(Section):
    """Token budget x hook x d_sae."""

    architecture: Literal["topk", "batchtopk"] = Field("topk", description="architecture scaled")
    token_budgets: list[PositiveInt] = Field(min_length=1, description="activation rows trained on")
    hooks: list[Name] = Field(min_length=1, description="hook points")
    d_sae: list[PositiveInt] = Field(min_length=1, description="latents")
    k: CalibratedOrInt = Field(description="active latents per row")
    seeds: list[Seed] = Field(min_length=3, description="seeds of every condition")


class Selection(Section):
    """How one candidate is chosen from frontier and scaling."""

    min_seeds: PositiveInt = Field(
        5, description="strict selector: a condition with fewer seeds cannot be chosen"
    )
    cycle3_min_seeds: PositiveInt = Field(
        3, description="cycle3 selector: the same, as in the original"
    )


class Confirmation(Section):
    """The selected candidate, trained again on fresh seeds and measured on held-out data."""

    seeds: list[Seed] = Field(
        min_length=3, description="fresh seeds; the strict policy wants at least 8"
    )
    force: bool = Field(
        False, description="allow a second attempt for one config hash; it is marked in the report"
    )


class Stress(Section):
    """Stress tests of the candidate."""

    seeds: list[Seed] = Field(
        min_length=3,
        description="fresh seeds of the randomised-subject SAEs and the transcoder; strict wants 5",
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


class Gate(SelfTest, RunEnd):
    """The decision."""

    policies: list[str] = Field(
        ["cycle3", "strict"], description="policies evaluated: names of shipped policies, or files"
    )


class Config(Section):
    """The whole configuration."""

    compute: Compute = Field(default_factory=Compute)
    subjects: dict[
        Name,
        Annotated[
            ModularSubject | LanguageSubject | PretrainedSubject, Field(discriminator="kind")
        ],
    ]
    corpus: Corpus = Field(default_factory=Corpus)
    activations: dict[Name, Activations]
    training: dict[Name, Training]
    baseline: Baseline
    ablations: Ablations
    calibration: Calibration
    consistency: Consistency
    external: External
    frontier: Frontier
    scaling: Scaling
    selection: Selection = Field(default_factory=Selection)
    confirmation: Confirmation
    stress: Stress
    gate: Gate = Field(default_factory=Gate)

    @property
    def hash(self) -> str:
        """SHA-256 of the whole configuration, 16 hex digits; where jobs run is left out."""
        return hash_json(self.model_dump(exclude={"compute"}))[:16]
