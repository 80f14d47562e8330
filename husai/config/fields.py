"""What the sections of the configuration are made of: names, numbers with limits, blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
"""What subjects, hooks, recipes, candidates and policies may be called. Such a name is a folder, a
wildcard of a rule and a word of a command; a dot is allowed (``qwen2.5``), a space is not."""
Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
# 2**53: the largest whole number that a float holds exactly, which every figure becomes somewhere.
PositiveInt = Annotated[int, Field(ge=1, le=2**53)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Architecture = Literal["topk", "batchtopk", "matryoshka", "relu", "jumprelu"]
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


class DrawnSeeds(Section):
    """Seeds drawn by a rule from the hash of the configuration, before any weights exist."""

    draw: int = Field(
        ge=3, le=1000, description="how many; the strict policy wants 8, and 5 for stress"
    )


def _each_or_block(value: object) -> str:
    return "each" if isinstance(value, list) else "block"


Seeds = Annotated[
    Annotated[list[Seed], Field(min_length=3), Tag("each")] | Annotated[DrawnSeeds, Tag("block")],
    Discriminator(_each_or_block),
]


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
