"""Building, saving and loading of the models that are trained here: weights as safetensors beside
the configuration that rebuilds them; and random weights of the same scale.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from husai.errors import HusaiError
from husai.provenance import atomic_path, read_json, write_json

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@contextlib.contextmanager
def quiet():
    """Silence TransformerLens 3's notice that ``HookedTransformer`` goes in version 4 (it is used
    in this room only), and transformers' progress bars, which are no news for a log.
    """
    with warnings.catch_warnings(action="ignore"):
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            from transformers.utils import logging as transformers_logging

            transformers_logging.disable_progress_bar()
            yield
        finally:
            logging.root.setLevel(level)


def build(model_config: dict[str, Any], seed: int, device: str | torch.device = "cpu"):
    """A fresh ``HookedTransformer`` of the ``HookedTransformerConfig`` with these fields."""
    with quiet():
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        torch.manual_seed(seed)
        dtype = getattr(torch, str(model_config.get("dtype", "float32")).removeprefix("torch."))
        config = HookedTransformerConfig.from_dict(
            {**model_config, "dtype": dtype, "device": "cpu", "seed": None}
        )
        return HookedTransformer(config, move_to_device=False).to(device, print_details=False)


def config_of(model) -> dict[str, Any]:
    """JSON values from which :func:`build` makes a model of the same shape."""
    values = {f.name: getattr(model.cfg, f.name) for f in dataclasses.fields(model.cfg)}
    values["dtype"] = str(values["dtype"]).removeprefix("torch.")
    values |= {"device": "cpu", "seed": None, "tokenizer_name": None}
    values |= {"init_weights": True, "n_params": None}
    plain = (bool, int, float, str, list, dict)
    return {k: v for k, v in values.items() if v is None or isinstance(v, plain)}


def save(model, directory: Path, spec: dict) -> None:
    """Write ``model.safetensors`` (parameters only) and ``config.json``."""
    save_weights(model, directory)
    write_json(directory / CONFIG, {"spec": spec, "model": config_of(model)})


def save_weights(model, directory: Path) -> None:
    """Write ``model.safetensors``: every parameter under its name."""
    tensors = {name: p.detach().cpu().contiguous().clone() for name, p in model.named_parameters()}
    with atomic_path(directory / WEIGHTS) as temporary:
        save_file(tensors, temporary)


def load(directory: Path, device: str | torch.device = "cpu") -> tuple[Any, dict]:
    """Rebuild the model saved in ``directory``; returns it, in evaluation mode, and its
    ``config.json``.

    Raises
    ------
    HusaiError
        Files missing, unreadable, or weights that do not fit the configuration.
    """
    record = read_json(directory / CONFIG)
    if not isinstance(record, dict) or "model" not in record:
        raise HusaiError(
            f"{directory / CONFIG}: holds no model configuration; run the subject job again"
        )
    model = build({**record["model"], "init_weights": False}, seed=0)
    restore(model, directory)
    return model.to(device, print_details=False).eval().requires_grad_(False), record


@torch.no_grad()
def restore(model, directory: Path) -> None:
    """Give every parameter of ``model`` its value in ``directory/model.safetensors``.

    Raises
    ------
    HusaiError
        The file is missing, unreadable, or its weights do not fit the model.
    """
    try:
        weights = load_file(directory / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise HusaiError(
            f"{directory / WEIGHTS}: not readable ({error}); run the subject job again"
        ) from error
    parameters = dict(model.named_parameters())
    wrong = sorted(set(parameters) ^ set(weights)) or [
        n for n, p in parameters.items() if p.shape != weights[n].shape
    ]
    if wrong:
        raise HusaiError(
            f"{directory / WEIGHTS}: '{wrong[0]}' does not fit {CONFIG}; run the subject job again"
        )
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


@torch.no_grad()
def randomise(model, seed: int) -> None:
    """Replace every parameter by Gaussian noise of its own mean and standard deviation (in place).

    The control of Heap et al. 2501.17727: shape and scale of the trained model, nothing learned. A
    constant tensor stays as it is."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        values = parameter.float().cpu()
        noise = torch.randn(values.shape, generator=generator) * values.std(correction=0)
        parameter.copy_((noise + values.mean()).to(parameter.device, parameter.dtype))
