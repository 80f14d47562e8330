"""Sections of the configuration on machine, subjects, activations, and how SAEs are optimised."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from husai.config.fields import Fraction, Name, PositiveInt, Section, Seed

StoredHooks = Annotated[
    list[Name],
    Field(description="hook points whose activations are stored; the first is the default"),
]


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
    hooks: StoredHooks = Field([])


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
    hooks: StoredHooks = Field([])


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
    hooks: StoredHooks = Field([])


class RowsSubject(Section):
    """Activations that others computed, without their model: for everything that needs no model."""

    kind: Literal["rows"]
    path: str = Field(
        description="a .npy, .safetensors or .pt file of rows (n, d), or an activation store; "
        "{hook} in it stands for the name of the hook; absolute, or relative to the folder of "
        "results/"
    )
    seed: Seed = Field(0, description="seed of the activation sample")
    hooks: list[Name] = Field(
        [], description="hook points that have rows; the first is the default"
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
    positions_per_context: PositiveInt | None = Field(
        None,
        description="rows taken of one context, at random positions; more make the forward passes "
        "fewer and the rows less varied (default: a quarter of the context)",
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
