"""The spec of every job: a typed model of what it depends on, built from the configuration's own
sections, so that a setting has its default there and nowhere else.

A spec travels to its job as canonical JSON (``--spec``), the only parameter of its rule: a job
reruns exactly when its spec changed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

from husai.config import external, inputs, stages, text
from husai.config.fields import Name, PositiveInt, Section, Seed
from husai.config.mistakes import mistakes
from husai.errors import HusaiError
from husai.provenance import canonical_json
from husai.recipe import Recipe


class Spec(Section):
    """What a job depends on."""

    def text(self) -> str:
        """Canonical JSON: equal specs give equal text."""
        return canonical_json(self.values())

    def values(self) -> dict[str, Any]:
        """The spec as plain JSON values, as records and manifests keep it."""
        return self.model_dump(mode="json")


def read_spec(model: Any, values: dict[str, Any]) -> Any:
    """A job's spec, of the type or one of a union of types ``model``, from JSON values.

    Raises
    ------
    HusaiError
        One line that names every mistake: key, value, what was expected.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        found = [
            f"{'.'.join(where)}: {phrase}" if where else phrase
            for where, phrase in mistakes(error, model)
        ]
        raise HusaiError(f"--spec: {'; '.join(found)}") from None


def _recipe(value: Any) -> Any:
    try:
        return Recipe.from_dict(value) if isinstance(value, dict) else value
    except TypeError as error:  # a field is missing, or holds what cannot be compared
        why = str(error).removeprefix("Recipe.__init__() ")
        raise HusaiError(f"--spec: recipe: {why}; give the fields of a recipe.json") from None


RecipeField = Annotated[
    InstanceOf[Recipe], BeforeValidator(_recipe), PlainSerializer(Recipe.to_dict)
]


class EvaluationSets(Spec):
    """Probing data sets by what they are for, ``all`` and ``rest`` filled in."""

    selection: list[str] = Field([])
    confirmation: list[str] = Field([])
    ood: list[str] = Field([])
    max_rows: PositiveInt | None = None
    """First rows only."""


class CorpusSpec(EvaluationSets, text.CorpusSection):
    """Which text is evaluation text, and how the rest is cut."""


class OfSubject(Spec):
    """Whose model it is."""

    name: Name
    randomise: bool = False
    """A copy of the subject of that name without ``-random``, with random weights."""


class ModularSpec(OfSubject, inputs.ModularSubject):
    """A modular subject."""


class LanguageSpec(OfSubject, inputs.LanguageSubject):
    """A language subject and its text."""

    corpus: CorpusSpec = CorpusSpec()


class PretrainedSpec(OfSubject, inputs.PretrainedSubject):
    """A model that others trained, and the text its SAEs are trained on."""

    corpus: CorpusSpec = CorpusSpec()


class RowsSpec(OfSubject, inputs.RowsSubject):
    """A subject that is known by its activations alone."""


SubjectSpec = Annotated[
    ModularSpec | LanguageSpec | PretrainedSpec | RowsSpec, Field(discriminator="kind")
]
SUBJECT_SPECS = {
    "modular": ModularSpec,
    "language": LanguageSpec,
    "pretrained": PretrainedSpec,
    "rows": RowsSpec,
}
READS_TEXT = ("language", "pretrained")
"""Kinds of subjects that have a corpus."""


class ActivationsSpec(Spec):
    """Rows stored of a subject; of a modular one all pairs, so ``rows`` is empty."""

    name: Name
    seed: Seed = 0
    rows: inputs.Activations | None = None
    corpus: CorpusSpec | None = None


class ProbesSpec(EvaluationSets):
    """Data sets and hooks that get probe activations."""

    hooks: list[Name] = Field(min_length=1)
    max_tokens: PositiveInt = 1024
    """Tokens read of a row, at most the subject's context; SAEBench's own limit."""
    pooling: Literal["mean", "last"] = "mean"
    """Which tokens of a row are kept: those that count, or the last one."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format on disk."""


class TrainSpec(Spec):
    """A recipe and its seeds."""

    recipe: RecipeField
    seeds: list[Seed] = Field(min_length=1)
    may_fail: bool = False
    """A recipe that cannot be trained as defined is a result: a manifest with ``status: failed``
    and the reason, and no SAE."""


class BringSpec(Spec):
    """Checkpoints of a brought ensemble, their seeds, and how its controls are trained here."""

    name: Name
    subject: Name
    hook_name: Name
    members: list[str] = Field(min_length=1)
    seeds: list[Seed]
    training: inputs.Training


class PlantedSpec(Spec, stages.Planted):
    """Recovery of planted features."""

    seeds: list[Seed] = Field(min_length=2)


class OfSAE(Spec):
    """What an SAE is that does not say so itself, because this pipeline did not train it."""

    subject: Name | None = None
    recipe: str | None = None
    seed: Seed | None = None
    hook_name: Name | None = None


class ProbingSpec(OfSAE, external.Probes):
    """Sparse probing of one split."""

    split: Literal["selection", "confirmation"] = "selection"
    datasets: list[str] = Field([])
    """All there are when empty."""
    max_rows: PositiveInt | None = None


class PairsSpec(EvaluationSets, external.CEBench):
    """Contrastive pairs, and the hooks they are read at."""

    hooks: list[Name] = Field(min_length=1)


class CEBenchSpec(EvaluationSets, OfSAE, external.CEBench):
    """CE-Bench of an SAE on one half of the stored pairs; how those were drawn goes into its record
    and is compared with other records by the gate.
    """

    split: Literal["selection", "confirmation"] = "selection"


class FaithfulnessSpec(OfSAE, external.FaithfulnessSection):
    """Splicing of an SAE into the subject on texts of one split."""

    split: Literal["selection", "confirmation"] = "selection"


class OODSpec(EvaluationSets, OfSAE, external.GateProbe):
    """Out-of-domain probing of the candidate."""


class BaselineSpec(Spec):
    """The baseline stage."""

    baseline: stages.Baseline


class AblationsSpec(Spec):
    """The ablation stage."""

    ablations: stages.Ablations


class CalibrationSpec(Spec):
    """The calibration stage."""

    calibration: stages.Calibration


class ConsistencySpec(Spec):
    """The consistency stage; ``gate_k`` where one of its subjects has external benchmarks."""

    consistency: stages.Consistency
    gate_k: PositiveInt | None = None


class FrontierSpec(Spec):
    """The frontier table."""

    frontier: stages.Frontier
    gate_k: PositiveInt


class ScalingSpec(Spec):
    """The scaling table."""

    scaling: stages.Scaling
    gate_k: PositiveInt


class FreshMembers(Section):
    """Members of a brought ensemble that are kept for the confirmation."""

    members: list[str]
    seeds: list[Seed]


class DrawnFrom(Section):
    """What a confirmation is drawn from, so that the gate can draw it again
    (:mod:`husai.probing.draws`)."""

    key: str
    pool: list[str]


class StressSpec(stages.Stress):
    """Stress tests, with their seeds."""

    seeds: list[Seed]


class ConfirmationSpec(Spec, stages.Confirmation):
    """Seeds of the confirmation, its data, and how its roles are trained."""

    seeds: list[Seed]
    stress: StressSpec
    training: dict[Name, inputs.Training]
    selection_seeds: list[Seed]
    datasets: list[str]
    gate_k: PositiveInt
    brought: dict[str, FreshMembers] = Field({})
    measured: dict[str, dict[str, Any]] = Field({})
    """By evidence kind, the spec that everything is measured with: part of the attempt."""
    drawn: DrawnFrom | None = None
    """What data sets and all seeds were drawn from by rule; None where one of them was named."""


class SelectionSpec(Spec, stages.SelectionSection):
    """How the candidate is chosen."""


class SelfTestSpec(Spec, stages.SelfTest):
    """Size of the gate's self-test."""


class AssertSpec(Spec, stages.RunEnd):
    """Whether a failed gate ends the run with an error."""
