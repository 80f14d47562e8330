"""Stress tests: would the claim survive a randomised subject, another kind of dictionary, another
domain?

The comparisons of ensembles are here; training their SAEs is ordinary recipe work, and the
out-of-domain probes are :mod:`husai.stress.out_of_domain`."""

from husai.stress.ensembles import (
    paired_probes,
    probing_difference,
    stability_difference,
    stress_metrics,
)

__all__ = ["paired_probes", "probing_difference", "stability_difference", "stress_metrics"]
