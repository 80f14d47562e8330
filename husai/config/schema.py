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
    GateSection,
    Scaling,
    SelectionSection,
    Stage,
    Stress,
)
from husai.config.text import CorpusSection
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
    corpus: CorpusSection = Field(default_factory=CorpusSection)
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
    selection: SelectionSection = Field(default_factory=SelectionSection)
    confirmation: Confirmation
    stress: Stress
    gate: GateSection = Field(default_factory=GateSection)

    @property
    def hash(self) -> str:
        """SHA-256 of the whole configuration, 16 hex digits; where jobs run is left out."""
        return hash_json(self.model_dump(exclude={"compute"}))[:16]

    @property
    def draw_key(self) -> str:
        """What the drawing of the confirmation's data sets starts from: the hash of all that
        decides on weights and measurements, and so not of where jobs run or how a run ends."""
        return hash_json(self.model_dump(exclude={"compute", "gate"}))
