"""The whole configuration as one typed model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from husai.config.external import External
from husai.config.fields import Name, Section
from husai.config.inputs import (
    Activations,
    Compute,
    LanguageSubject,
    ModularSubject,
    PretrainedSubject,
    RowsSubject,
    Training,
)
from husai.config.stages import (
    STAGES,
    Ablations,
    Baseline,
    Calibration,
    Confirmation,
    Consistency,
    Frontier,
    Gate,
    Scaling,
    Selection,
    Stage,
    Stress,
)
from husai.config.text import Corpus
from husai.provenance import hash_json


class Config(Section):
    """The whole configuration."""

    compute: Compute = Field(default_factory=Compute)
    subjects: dict[
        Name,
        Annotated[
            ModularSubject | LanguageSubject | PretrainedSubject | RowsSubject,
            Field(discriminator="kind"),
        ],
    ]
    corpus: Corpus = Field(default_factory=Corpus)
    activations: dict[Name, Activations]
    training: dict[Name, Training]
    stages: list[Stage] = Field(
        list(STAGES),
        description="stages that train SAEs here; without frontier the table of that name holds "
        "external.candidates alone",
    )
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

    @property
    def draw_key(self) -> str:
        """What the drawing of the confirmation's data sets starts from: the hash of all that decides
        on weights and measurements, and so not of where jobs run or how a run ends.
        """
        return hash_json(self.model_dump(exclude={"compute", "gate"}))
