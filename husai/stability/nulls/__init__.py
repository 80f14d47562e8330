"""What "random" means: the nulls a stability value is corrected against, and the worst of them."""

from husai.stability.nulls.dictionaries import (
    FIRST_SEED,
    KINDS,
    NullResult,
    gaussian_decoder,
    null_decoders,
    null_pwmcc,
    worst_null,
)

__all__ = [
    "FIRST_SEED",
    "KINDS",
    "NullResult",
    "gaussian_decoder",
    "null_decoders",
    "null_pwmcc",
    "worst_null",
]
