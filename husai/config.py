"""Typed configuration: load YAML overlays, report every mistake at once with file, key and value, write the JSON schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from husai.errors import HusaiError, nearest
from husai.provenance import hash_json

Seed = Annotated[int, Field(ge=0, lt=2**31)]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Architecture = Literal["topk", "batchtopk", "relu", "jumprelu"]
CalibratedOrInt = PositiveInt | Literal["calibrated"]


class Section(BaseModel):
    """A block of the configuration: unknown keys are mistakes, text is never taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Compute(Section):
    """Where jobs run. Not part of any recipe: changing it reruns nothing."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; asking for CUDA where there is none is an error")
    dtype: Literal["float32", "float64", "bfloat16"] = Field("float32", description="number format of SAE training and evaluation")
    train_threads: PositiveInt = Field(1, description="CPU threads of a training or evaluation job")
    gpu_mem_mb: PositiveInt = Field(20000, description="GPU memory a GPU job asks of the scheduler, MB")
    mem_mb: PositiveInt = Field(2500, description="main memory a job asks of the scheduler, MB")
    runtime: PositiveInt = Field(240, description="time limit a job asks of the scheduler, minutes")


class ModularSubject(Section):
    """A transformer trained here on (a + b) mod p; tokens [a, b, =], read at '=', the answer never in the input."""

    kind: Literal["modular"]
    p: PositiveInt = Field(113, description="modulus")
    d_model: PositiveInt = Field(128, description="residual width")
    n_layers: PositiveInt = Field(1, description="layers")
    n_heads: PositiveInt = Field(4, description="attention heads")
    d_mlp: PositiveInt = Field(512, description="MLP width")
    train_fraction: Fraction = Field(0.8, description="share of the p*p pairs trained on")
    target_accuracy: Fraction = Field(0.999, description="held-out accuracy at which training stops")
    max_steps: PositiveInt = Field(1500, description="steps after which training gives up")
    batch_size: PositiveInt = Field(2048, description="pairs per step")
    learning_rate: float = Field(2.0e-3, gt=0, description="AdamW learning rate")
    weight_decay: float = Field(1.0, ge=0, description="AdamW weight decay")
    seed: Seed = Field(0, description="seed of initialisation, split and order")
    hooks: list[str] = Field(description="hook points whose activations are stored; the first is the default")


class LanguageSubject(Section):
    """A small causal transformer trained here, with its own tokenizer, on the probing data sets' training text."""

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
    hooks: list[str] = Field(description="hook points whose activations are stored; the first is the default")


class HubSubject(Section):
    """A model from the model hub, loaded through TransformerLens."""

    kind: Literal["hub"]
    model_name: str = Field(description="TransformerLens name, e.g. pythia-70m-deduped")
    revision: str | None = Field(None, description="hub revision; null is the default branch")
    n_ctx: PositiveInt = Field(1024, description="context length in tokens")
    seed: Seed = Field(0, description="seed of the activation sample")
    hooks: list[str] = Field(description="hook points whose activations are stored; the first is the default")


class Corpus(Section):
    """Text that language subjects and their SAEs are trained on; never overlaps evaluation text."""

    max_chars_per_row: PositiveInt = Field(1000, description="longer rows are cut here")
    max_rows_per_dataset: PositiveInt = Field(2000, description="rows taken from one data set at most")
    held_out_fraction: Fraction = Field(0.05, description="share of the documents kept for the held-out loss")


class Activations(Section):
    """How many activation rows are stored per split (language subjects; a modular subject stores every pair)."""

    train_rows: PositiveInt = Field(description="rows that SAEs train on")
    held_out_rows: PositiveInt = Field(description="rows for held-out measurements")
    confirmation_rows: PositiveInt = Field(description="rows kept for the confirmation of the candidate")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="number format on disk")


class Training(Section):
    """Optimisation of every SAE on one subject."""

    steps: PositiveInt = Field(description="optimiser steps")
    batch_size: PositiveInt = Field(description="rows per step")
    learning_rate: float = Field(1.0e-3, gt=0, description="Adam learning rate")
    warmup_fraction: Fraction = Field(0.05, description="share of the steps with linear warm-up")
    decay_fraction: Fraction = Field(0.2, description="share of the steps with linear decay to zero")
    gradient_clip: float | None = Field(1.0, description="gradient norm limit per SAE; null for none")
    auxk_coefficient: float = Field(0.03125, ge=0, description="weight of the AuxK loss; 0 for none")
    dead_after_rows: PositiveInt = Field(200_000, description="rows without firing after which a latent counts as dead in training")
    b_dec_init: Literal["geometric_median", "mean", "zero"] = Field("geometric_median", description="start of the decoder bias")


class Baseline(Section):
    """Trained SAEs against every null (phase 4a)."""

    subject: str = Field(description="subject name")
    d_sae: PositiveInt = Field(description="latents")
    k: PositiveInt = Field(description="active latents per row")
    seeds: list[Seed] = Field(min_length=3, description="seeds of the ensemble and of its frozen-decoder control")


class Ablations(Section):
    """Grids over k at fixed d_sae and over d_sae at fixed k (phase 4c)."""

    subject: str = Field(description="subject name")
    k: list[PositiveInt] = Field(min_length=1, description="values of k, at d_sae = k_at_d_sae")
    k_at_d_sae: PositiveInt = Field(description="d_sae of the k grid")
    d_sae: list[PositiveInt] = Field(min_length=1, description="values of d_sae, at k = d_sae_at_k")
    d_sae_at_k: PositiveInt = Field(description="k of the d_sae grid")
    seeds: list[Seed] = Field(min_length=3, description="seeds of every condition")


class Calibration(Section):
    """Adaptive L0: search k, retrain the choice on fresh seeds beside a control at the default k, match L0 elsewhere."""

    subject: str = Field(description="subject name")
    d_sae: PositiveInt = Field(description="latents")
    k: list[PositiveInt] = Field(min_length=2, description="candidates for k")
    default_k: PositiveInt = Field(description="k of the matched control")
    seeds: list[Seed] = Field(min_length=3, description="seeds of the search")
    retrain_seeds: list[Seed] = Field(min_length=3, description="fresh seeds of the retrained choice and its control")
    min_explained_variance: Fraction = Field(description="a candidate below this held-out explained variance is not eligible")
    match_architectures: list[Literal["relu", "jumprelu"]] = Field(description="architectures whose L0 is matched to the chosen k")


class Consistency(Section):
    """Seeds trained with an alignment penalty to a reference decoder (assignment v2)."""

    subject: str = Field(description="subject name")
    d_sae: PositiveInt = Field(description="latents")
    k: PositiveInt = Field(description="active latents per row")
    weights: list[Annotated[float, Field(ge=0)]] = Field(min_length=1, description="values of lambda; 0 is the control")
    interval: PositiveInt = Field(50, description="steps between two matchings")
    seeds: list[Seed] = Field(min_length=3, description="seeds; the first is the reference")
    max_ev_drop: Fraction = Field(0.05, description="accepted loss of explained variance")


class DataSets(Section):
    """Which probing data sets are evaluated; names as in sae-probes, e.g. 87_glue_cola."""

    selection: list[str] | Literal["all"] = Field(description="split A: data sets that may choose the candidate")
    confirmation: list[str] | Literal["rest"] = Field(description="split B, other families: data sets that confirm it")
    ood: list[str] = Field(description="data sets with a shipped out-of-domain twin")
    max_rows: PositiveInt | None = Field(None, description="use the first rows only; null for all")


class Probing(Section):
    """Sparse probing (SAEBench)."""

    engine: Literal["fast", "official"] = Field("fast", description="engine of frontier and scaling")
    confirmation_engine: Literal["fast", "official"] = Field("official", description="engine of the candidate's gate evidence")
    ks: list[PositiveInt] = Field(description="numbers of latents a probe may use")
    gate_k: PositiveInt = Field(16, description="the fixed k of the strict policy; must be one of ks")
    penalty: Literal["l1", "l2"] = Field("l1", description="penalty of the SAE probes")


class CEBench(Section):
    """Contrastive pairs."""

    source: Literal["embedded", "hub"] = Field(description="pairs from the probing data sets, or the hub's contrastive stories")
    hub_version: str = Field("GulkoA/contrastive-stories-v4", description="hub data set when source is hub")
    n_pairs: PositiveInt = Field(description="pairs for selection, and as many for confirmation")
    max_tokens: PositiveInt = Field(128, description="tokens read of each story")


class Candidate(Section):
    """An SAE the user brings."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="name under results/external/")
    path: str = Field(description="checkpoint folder or file in any supported format")
    hook: str = Field(description="hook point it reads")
    seed: Seed = Field(0, description="seed it was trained with; seeds of one name form a group")


class External(Section):
    """External benchmarks of the language subject."""

    subject: str = Field("language", description="subject name")
    datasets: DataSets
    probing: Probing
    cebench: CEBench
    candidates: list[Candidate] = Field([], description="further SAEs to put through frontier, selection and gate")


class Frontier(Section):
    """Architectures at matched L0."""

    architectures: list[Architecture] = Field(min_length=1, description="architectures compared")
    d_sae: PositiveInt = Field(description="latents")
    k: CalibratedOrInt = Field(description="L0 of every architecture; 'calibrated' takes the choice of the calibration stage")
    seeds: list[Seed] = Field(min_length=3, description="seeds of every architecture")


class Scaling(Section):
    """Token budget x hook x d_sae."""

    architecture: Literal["topk", "batchtopk"] = Field("topk", description="architecture scaled")
    token_budgets: list[PositiveInt] = Field(min_length=1, description="activation rows trained on")
    hooks: list[str] = Field(min_length=1, description="hook points")
    d_sae: list[PositiveInt] = Field(min_length=1, description="latents")
    k: CalibratedOrInt = Field(description="active latents per row")
    seeds: list[Seed] = Field(min_length=3, description="seeds of every condition")


class Selection(Section):
    """How one candidate is chosen from frontier and scaling."""

    min_seeds: PositiveInt = Field(5, description="strict selector: a condition with fewer seeds cannot be chosen")
    cycle3_min_seeds: PositiveInt = Field(3, description="cycle3 selector: the same, as in the original")


class Confirmation(Section):
    """The selected candidate, trained again on fresh seeds and measured on held-out data."""

    seeds: list[Seed] = Field(min_length=3, description="fresh seeds; the strict policy wants at least 8")
    force: bool = Field(False, description="allow a second attempt for one config hash; it is marked in the report")


class Stress(Section):
    """Stress tests of the candidate."""

    transcoder_hooks: tuple[str, str] | list[str] = Field(
        description="[MLP input, MLP output] of the transcoder", min_length=2, max_length=2
    )
    transcoder_subject: str = Field("language", description="subject of the transcoder")


class Gate(Section):
    """The decision."""

    policies: list[str] = Field(["cycle3", "strict"], description="policies evaluated: names in config/policies or files")
    fail_on_gate_fail: bool = Field(False, description="exit non-zero, after report and log, when the strict gate fails")
    null_campaigns: PositiveInt = Field(2000, description="simulated campaigns for the false-pass rate")


class Config(Section):
    """The whole configuration."""

    compute: Compute = Field(default_factory=Compute)
    subjects: dict[str, Annotated[ModularSubject | LanguageSubject | HubSubject, Field(discriminator="kind")]]
    corpus: Corpus = Field(default_factory=Corpus)
    activations: dict[str, Activations]
    training: dict[str, Training]
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

    @model_validator(mode="after")
    def _cross_checks(self) -> Config:
        from husai.config_checks import cross_checks

        problems = cross_checks(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=deep)
        if key in seen:
            raise HusaiError(f"{loader.name}: line {key_node.start_mark.line + 1}: key '{key}' is given twice; keep one")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: _mapping(loader, node, deep=True))


def read_yaml(path: str | Path) -> dict:
    """Read a YAML mapping; duplicate keys, broken syntax and a missing file are one-line errors."""
    try:
        with open(path) as handle:
            loader = _Loader(handle)
            loader.name = str(path)
            value = loader.get_single_data() or {}
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such file; give the path of a YAML configuration") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise HusaiError(f"{path}: line {mark.line + 1 if mark else '?'}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(value, dict):
        raise HusaiError(f"{path}: expected a mapping of keys, found {type(value).__name__}")
    return value


def merge(base: dict, over: dict, origins: dict | None = None, source: str = "", prefix: tuple = ()) -> dict:
    """Deep-merge ``over`` into a copy of ``base``; note in ``origins`` which file set each key.

    Lists replace lists. A block with another ``kind`` replaces the whole block.
    """
    out = {} if "kind" in over and over["kind"] != base.get("kind", over["kind"]) else dict(base)
    for key, value in over.items():
        where = (*prefix, str(key))
        if origins is not None:
            origins[where] = source
        nested = isinstance(value, dict)
        old = out.get(key)
        out[key] = merge(old if nested and isinstance(old, dict) else {}, value, origins, source, where) if nested else value
    return out


def load(paths: Sequence[str | Path], override: dict | None = None) -> Config:
    """Load and validate configuration files, later ones overlaying earlier ones.

    Parameters
    ----------
    paths : sequence of path
        YAML files; the first is the base.
    override : dict, optional
        Values laid over all files (Snakemake's ``--config``).

    Raises
    ------
    HusaiError
        With one line per mistake: file, key, value, what was expected.
    """
    origins: dict[tuple, str] = {}
    raw: dict = {}
    for path in paths:
        raw = merge(raw, read_yaml(path), origins, str(path))
    if override:
        raw = merge(raw, override, origins, "--config")
    default = str(paths[-1]) if paths else "configuration"
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = _explain(error, origins, default)
        rest = _mend(raw, read_yaml(paths[0]) if paths else {}, error)
    try:
        Config.model_validate(rest)
    except ValidationError as error:
        lines += [line for line in _explain(error, origins, default) if line not in lines]
    raise HusaiError("\n".join(lines))


def _mend(raw: dict, base: dict, error: ValidationError) -> dict:
    """``raw`` with every faulty value put back to the base's, so that the checks across keys can run as well."""
    mended = json.loads(json.dumps(raw, default=str))
    for item in error.errors():
        here, there = mended, base
        for part in item["loc"]:
            inside = isinstance(here, dict) and part in here
            if inside and isinstance(here[part], dict) and isinstance(there, dict) and part in there and part != item["loc"][-1]:
                here, there = here[part], there[part]
            elif inside:
                here.pop(part)
                if isinstance(there, dict) and part in there:
                    here[part] = there[part]
                break
    return mended


def _explain(error: ValidationError, origins: dict[tuple, str], default: str) -> list[str]:
    lines = []
    for item in error.errors():
        where = tuple(
            str(p) for p in item["loc"] if str(p) not in ("modular", "language", "hub") or len(item["loc"]) < 3 or p != item["loc"][2]
        )
        where = tuple(p for p in where if not p.startswith(("function-", "list[", "literal[", "constrained-", "tuple[", "int", "union")))
        file = next((origins[where[:n]] for n in range(len(where), 0, -1) if where[:n] in origins), default)
        if item["type"] == "value_error" and not where:
            lines += [f"{default}: {line}" for line in str(item["ctx"]["error"]).split("\n")]
            continue
        lines.append(f"{file}: {'.'.join(where)}: {_phrase(item)}")
    return list(dict.fromkeys(lines))


def _phrase(item: dict) -> str:
    value = item["input"]
    if item["type"] == "extra_forbidden":
        return f"unknown key{nearest(item['loc'][-1], _known_keys(item['loc']))}"
    if item["type"] == "missing":
        return "missing; this key is required"
    shown = json.dumps(value, default=str)
    if isinstance(value, str):
        try:
            float(value)
            hint = f"; YAML reads {value} as text here, write it as {float(value):.1e}".replace("e-0", "e-").replace("e+0", "e+")
            return f"got the text {shown}, expected a number{hint}"
        except ValueError:
            pass
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"got {shown if len(shown) < 80 else shown[:77] + '...'}, {message.replace('input should', 'it should')}"


def _known_keys(loc: tuple) -> list[str]:
    names: list[str] = []
    stack: list[type[BaseModel]] = [Config]
    for model in stack:
        names += list(model.model_fields)
        for field in model.model_fields.values():
            stack += [m for m in _models_in(field.annotation) if m not in stack]
    return names


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]
