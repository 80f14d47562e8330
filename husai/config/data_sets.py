"""Which probing data sets a configuration means, and that they exist and keep apart."""

from __future__ import annotations

from husai.config.external import Drawn
from husai.config.schema import Config
from husai.errors import nearest


def data_set_checks(cfg: Config) -> list[str]:
    """Every data set that does not exist, has no twin, or stands on both sides; one line each."""
    from husai.probing import datasets

    known, sets = datasets.dataset_names(), cfg.external.datasets
    named = {"selection": sets.selection, "confirmation": sets.confirmation}
    if isinstance(sets.confirmation, Drawn):
        named = {"selection": sets.selection, "confirmation.among": sets.confirmation.among}
    out = [
        f"external.datasets.{k}: '{n}' is not one of the {len(known)} probing data "
        f"sets{nearest(n, known)}"
        for k, names in named.items()
        for n in (names if isinstance(names, list) else [])
        if n not in known
    ]
    with_twin = datasets.ood_names()
    out += [
        f"external.datasets.ood: '{n}' has no shipped out-of-domain twin{nearest(n, with_twin)}"
        for n in sets.ood
        if n not in with_twin
    ]
    return out or _apart(cfg)


def _apart(cfg: Config) -> list[str]:
    """Selection, confirmation and out-of-domain sets have nothing in common that they must not."""
    from husai.probing import datasets

    sets, out = cfg.external.datasets, []
    selection, confirmation = resolved_data_sets(cfg)
    a, b = (set(map(datasets.family, names)) for names in (selection, confirmation))
    if a & b:
        out.append(
            f"external.datasets: families {sorted(a & b)} are in both selection and "
            "confirmation; a family belongs to one side"
        )
    seen = sorted(set(selection) & set(sets.ood))
    if seen:
        out.append(
            f"external.datasets.ood: {seen} are in the selection too; what chose the candidate "
            "cannot test it, so take them out of one of the two"
        )
    if isinstance(sets.confirmation, Drawn) and len(confirmation) < sets.confirmation.draw:
        out.append(
            f"external.datasets.confirmation.draw: {sets.confirmation.draw} data sets are asked "
            f"for, but {len(confirmation)} are of families outside the selection; draw fewer, or "
            "among more"
        )
    return out


def resolved_data_sets(cfg: Config) -> tuple[list[str], list[str]]:
    """Data sets of selection and confirmation: ``all`` and ``rest`` filled in, drawn ones drawn."""
    from husai.probing.draws import draw_sets

    sets, names = cfg.external.datasets, confirmation_pool(cfg)
    if isinstance(sets.confirmation, Drawn):
        names = draw_sets(names, sets.confirmation.draw, cfg.draw_key)
    return _selection(cfg), names


def confirmation_pool(cfg: Config) -> list[str]:
    """Data sets that the confirmation uses, or may be drawn from: whatever the draw, the training
    text keeps clear of them.
    """
    from husai.probing import datasets

    sets = cfg.external.datasets.confirmation
    if sets == "rest":
        return list(datasets.split(datasets.dataset_names(), "B"))
    if not isinstance(sets, Drawn):
        return list(sets)
    seen = set(map(datasets.family, _selection(cfg)))
    names = datasets.dataset_names() if sets.among == "all" else sets.among
    return [name for name in names if datasets.family(name) not in seen]


def _selection(cfg: Config) -> list[str]:
    from husai.probing import datasets

    sets = cfg.external.datasets
    if sets.selection != "all":
        return list(sets.selection)
    half = datasets.split(datasets.dataset_names(), "A")
    return [name for name in half if name not in sets.ood]
