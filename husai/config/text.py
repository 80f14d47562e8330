"""Sections of the configuration on the text that subjects and their SAEs are trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from husai.config.fields import Fraction, PositiveInt, Section, Seed


class OwnText(Section):
    """What text of your own says of itself."""

    licence: str | None = Field(
        None, description="licence of the text, shown wherever excerpts of it are"
    )


class ProbingText(Section):
    """Rows of the shipped probing data sets that are no evaluation text."""

    kind: Literal["probing"]


class FileText(OwnText):
    """Text files of your own."""

    kind: Literal["files"]
    paths: list[str] = Field(
        min_length=1,
        description="globs of .txt (documents stand between blank lines), .jsonl and .parquet "
        "files; absolute, or relative to the folder of results/",
    )
    field: str = Field("text", description="field of jsonl and parquet that holds the text")
    encoding: str = Field("utf-8", description="encoding of .txt and .jsonl")


class DatasetText(OwnText):
    """A data set of the model hub."""

    kind: Literal["dataset"]
    name: str = Field(description="hub id, e.g. monology/pile-uncopyrighted, or a folder")
    config: str | None = Field(None, description="configuration of the data set")
    split: str = Field("train", description="split of the data set")
    field: str = Field("text", description="field that holds the text")
    revision: str | None = Field(
        None, description="hub branch, tag or commit; null is the default branch"
    )
    streaming: bool = Field(
        True, description="read while downloading, never whole; false downloads it first"
    )


TextSource = Annotated[ProbingText | FileText | DatasetText, Field(discriminator="kind")]


class CorpusSection(Section):
    """Text that language subjects and their SAEs are trained on. A document that was there before,
    is evaluation text or shares a run of 13 words with it is left out and counted.
    """

    sources: list[TextSource] = Field(
        [ProbingText(kind="probing")], min_length=1, description="where the text comes from"
    )
    max_tokens: PositiveInt | None = Field(
        None, description="training tokens after which reading stops; null reads everything"
    )
    max_chars_per_row: PositiveInt | None = Field(
        1000, description="longer documents are cut here; null cuts none"
    )
    max_rows_per_dataset: PositiveInt = Field(
        2000, description="rows taken from one probing data set at most"
    )
    held_out_fraction: Fraction = Field(
        0.05, description="share of the documents kept for held-out measurements"
    )
    confirmation_fraction: Fraction = Field(
        0.05, description="share of the documents kept for the confirmation of the candidate"
    )
    seed: Seed = Field(0, description="seed of the order of documents and of the splits")
