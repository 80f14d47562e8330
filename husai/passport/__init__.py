"""What is known of every single latent: in how many fresh seeds it reappears, how it fires, and
whether it can be certified at a known error rate."""

from husai.passport.certify import certify
from husai.passport.consensus import ConsensusSAE, consensus
from husai.passport.matching import Kin
from husai.passport.posterior import (
    BetaBinomial,
    certified,
    expected_fdr,
    fit,
    mixture_doubt,
    posterior,
)
from husai.passport.prediction import Prediction, predict
from husai.passport.table import LatentTable, Passports
from husai.passport.train_consensus import train_consensus

__all__ = [
    "BetaBinomial",
    "ConsensusSAE",
    "Kin",
    "LatentTable",
    "Passports",
    "Prediction",
    "certified",
    "certify",
    "consensus",
    "expected_fdr",
    "fit",
    "mixture_doubt",
    "posterior",
    "predict",
    "train_consensus",
]
