"""The SAEs of one comparison: checked, named, and reduced to the latents that fire."""

from __future__ import annotations

from typing import NamedTuple

import torch

from husai.activations import ActivationStore
from husai.errors import HusaiError
from husai.passport.matching import Matching
from husai.passport.posterior import FEWEST_COMPARISONS
from husai.stability.firing import Firing, firing
from husai.stability.measure import check_weights, pointing_rows
from husai.stability.rows import UnitRows


class ComparedEnsemble(NamedTuple):
    """The SAEs as they are compared: living latents of each, with names for errors and columns."""

    saes: list
    names: list[str]
    decoders: list[UnitRows]
    encoders: list[UnitRows]
    alive: list[torch.Tensor]
    firing: list[Firing | None]


def names_of(saes, seeds, names, fewest: int = 2) -> list[str]:
    """Names of SAEs: those given, or made of their seeds, or of their places.

    Raises
    ------
    HusaiError
        There are fewer SAEs than ``fewest``, ``seeds`` or ``names`` are not one per SAE, or one of
        them appears twice.
    """
    n = len(saes)
    if n < fewest:
        raise HusaiError(
            f"passport: {n} SAE{'' if n == 1 else 's'} cannot show what reappears; give at least "
            f"{FEWEST_COMPARISONS + 1} of one recipe, each from a seed of its own"
        )
    for what, values in (("seeds", seeds), ("names", names)):
        if values is not None and len(values) != n:
            raise HusaiError(f"passport: {n} SAEs but {len(values)} {what}")
        repeated = [] if values is None else [v for v in values if list(values).count(v) > 1]
        if repeated:
            raise HusaiError(
                f"passport: {what[:-1]} {repeated[0]} appears twice; the same seed is no "
                "reproduction, so give SAEs of different seeds"
            )
    if names is not None:
        return [str(name) for name in names]
    return [f"sae{i}" for i in range(n)] if seeds is None else [f"seed{s}" for s in seeds]


def check_spaces(saes, names, activations) -> None:
    """Raise a :class:`HusaiError` unless all SAEs and rows live in one space and hold numbers."""
    width = saes[0].W_dec.shape[1]
    for sae, name in zip(saes, names, strict=True):
        d_in, d_out = sae.W_enc.shape[0], sae.W_dec.shape[1]
        if d_in != d_out:
            raise HusaiError(
                f"{name}: reads {d_in} and writes {d_out} dimensions, as a transcoder does; "
                "passports are for SAEs of one hook"
            )
        if d_out != width:
            raise HusaiError(
                f"{names[0]} has d_in {width} and {name} has d_in {d_out}: they belong to different "
                "models or hooks; compare SAEs of one hook"
            )
        check_weights(sae, name)
    if activations is None:
        return
    store = isinstance(activations, ActivationStore)
    shape = (len(activations), activations.d) if store else tuple(activations.shape)
    if shape[1] != width:
        raise HusaiError(
            f"the activations have shape {shape} but the SAEs have d_in = {width}; give rows "
            f"(n, {width}) of their hook"
        )


def ensemble_of(saes, names, activations, device) -> ComparedEnsemble:
    """Which latents are alive, and the unit rows of those that are."""
    fired, alive, decoders, encoders = [], [], [], []
    for sae, name in zip(saes, names, strict=True):
        encoder = sae.W_enc.detach().T.contiguous()
        living = pointing_rows(sae.W_dec) & pointing_rows(encoder)
        fires = None
        if activations is not None:
            fires = firing(sae, activations, device=device)
            living &= fires.alive
        fired.append(fires)
        alive.append(living)
        decoders.append(UnitRows(sae.W_dec, living, name, device))
        encoders.append(UnitRows(encoder, living, name, device))
    return ComparedEnsemble(list(saes), names, decoders, encoders, alive, fired)


def matched_latents(ensemble: ComparedEnsemble, matching: Matching) -> dict:
    """Latent numbers of every best match, and which of those that count point the opposite way."""
    number = [living.nonzero().flatten() for living in ensemble.alive]
    return {
        (i, j): (
            number[i],
            number[j][found.index],
            found.matched & (found.decoder < 0) & (found.encoder < 0),
        )
        for (i, j), found in matching.candidates.items()
    }
