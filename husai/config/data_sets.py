"""Which probing data sets a configuration means, and that they exist and keep apart."""

from __future__ import annotations

from husai.config.schema import Config
from husai.errors import nearest


def data_set_checks(cfg: Config) -> list[str]:
    """Every data set that does not exist, has no twin, or stands on both sides; one line each."""
    from husai.probing import datasets

    known, sets = datasets.dataset_names(), cfg.external.datasets
    named = [("selection", n) for n in sets.selection if sets.selection != "all"]
    named += [("confirmation", n) for n in sets.confirmation if sets.confirmation != "rest"]
    out = [
        f"external.datasets.{k}: '{n}' is not one of the {len(known)} probing data "
        f"sets{nearest(n, known)}"
        for k, n in named
        if n not in known
    ]
    with_twin = datasets.ood_names()
    out += [
        f"external.datasets.ood: '{n}' has no shipped out-of-domain twin{nearest(n, with_twin)}"
        for n in sets.ood
        if n not in with_twin
    ]
    if not out:
        a, b = (set(map(datasets.family, names)) for names in resolved_data_sets(cfg))
        if a & b:
            out.append(
                f"external.datasets: families {sorted(a & b)} are in both selection and "
                "confirmation; a family belongs to one side"
            )
    return out


def resolved_data_sets(cfg: Config) -> tuple[list[str], list[str]]:
    """Names of the selection and the confirmation data sets, with ``all`` and ``rest`` filled
    in.
    """
    from husai.probing import datasets

    sets = cfg.external.datasets
    half_a, half_b = datasets.split(datasets.dataset_names())
    return (
        list(half_a) if sets.selection == "all" else list(sets.selection),
        list(half_b) if sets.confirmation == "rest" else list(sets.confirmation),
    )
