"""SAEs on disk: written in the SAELens inference format, read from SAELens, dictionary_learning,
sparsify and old HUSAI files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from husai.errors import HusaiError, nearest
from husai.provenance import atomic_path, finite, write_json
from husai.sae.architectures import SAE
from husai.sae.importers import (
    Taker,
    Tensors,
    from_dictionary_learning,
    from_husai_pt,
    from_sparsify,
    gated,
    one_line,
    read_config,
    read_tensors,
)

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
FORMAT_VERSION = "6.0.0"
SAELENS_NAME = {
    "topk": "topk",
    "batchtopk": "jumprelu",
    "relu": "standard",
    "jumprelu": "jumprelu",
    "transcoder": "topk",
}
SAELENS_READ = (
    "standard",
    "topk",
    "batchtopk",
    "matryoshka_batchtopk",
    "jumprelu",
    "gated",
    "transcoder",
    "jumprelu_transcoder",
)
OWN = (
    "sae_lens_version",
    "sae_lens_training_version",
    "husai_architecture",
    "husai_k",
    "husai_d_out",
)


def save_sae(sae: SAE, directory: str | Path) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` so that ``sae_lens.SAE.load_from_disk``
    gives the same codes and reconstructions.

    BatchTopK is written as JumpReLU with its global threshold. SAELens has no TopK transcoder
    class: one with d_in = d_out is written as TopK with an uncentred input, which is the same
    function; one with d_in != d_out gets the architecture name ``topk_transcoder``, which SAELens
    refuses and :func:`load_sae` reads. ``sae.cfg`` goes to SAELens' ``metadata`` (model_name,
    hook_name, recipe hash, seed...).

    Raises
    ------
    HusaiError
        A weight is not finite, or the directory cannot be written.
    """
    directory = Path(directory)
    weights = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    if sae.threshold is not None and sae.architecture in ("batchtopk", "jumprelu"):
        weights["threshold"] = sae.threshold
    weights = {
        name: t.detach().to("cpu", sae.dtype).contiguous().clone() for name, t in weights.items()
    }
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise HusaiError(
                f"{directory}: {name} of this {sae.architecture} SAE holds NaN or infinity; it is "
                "not written"
            )
    with atomic_path(directory / WEIGHTS) as temporary:
        save_file(weights, temporary)
    write_json(directory / CONFIG, _saelens_config(sae))


def load_sae(path: str | Path, device: str | torch.device = "cpu") -> SAE:
    """Read an SAE from a directory or file written by SAELens, dictionary_learning, sparsify or an
    older HUSAI.

    The format is told by the file names and, inside ``.pt`` files, by the names of the tensors;
    ``sae.cfg["format"]`` says which it was. Nothing in a file is ever executed. Call
    :func:`describe` on real activations to see that the conversion is right.

    Raises
    ------
    HusaiError
        Nothing readable there, a damaged file, a kind of SAE that has no counterpart here, or a
        pickle that wants to run code.
    """
    path = Path(path)
    if not path.exists():
        raise HusaiError(f"{path}: no such file or directory; give an SAE directory or a .pt file")
    try:
        sae = _read(path)
    except HusaiError as error:
        raise (error if str(path) in str(error) else HusaiError(f"{path}: {error}")) from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise HusaiError(
            f"{path}: settings or tensors do not describe an SAE ({one_line(error)}); copy it "
            "again from its source"
        ) from None
    return sae.to(device)


def describe(
    sae: SAE, x: torch.Tensor, target: torch.Tensor | None = None, batch_rows: int = 4096
) -> dict[str, Any]:
    """What an SAE does on activations ``x`` (n, d_in): a silent mis-conversion shows as an L0 or an
    explained variance that is far off.

    Returns
    -------
    dict
        ``architecture``, ``format``, ``d_in``, ``d_sae``, ``d_out``, ``k``, ``rows``; ``l0`` (mean
        active latents per row), ``dead_fraction`` (latents that never fire on ``x``) and
        ``explained_variance`` (1 - residual / variance about the mean of the target).
    """
    if x.ndim != 2 or x.shape[1] != sae.d_in or x.shape[0] < 2:
        raise HusaiError(
            f"describe: activations of shape {tuple(x.shape)} do not fit an SAE with d_in = "
            f"{sae.d_in}; give (n >= 2, {sae.d_in})"
        )
    target = x if target is None else target
    if target.shape != (x.shape[0], sae.d_out):
        raise HusaiError(
            f"describe: the target has shape {tuple(target.shape)}, {(x.shape[0], sae.d_out)} is "
            "needed"
        )
    mean = target.to(torch.float64).mean(0)
    active = torch.zeros(sae.d_sae, dtype=torch.int64, device=sae.device)
    residual = total = 0.0
    with torch.no_grad():
        for rows, wanted in zip(x.split(batch_rows), target.split(batch_rows), strict=True):
            code = sae.encode(rows.to(sae.device))
            active += (code != 0).sum(0)
            residual += float(
                (wanted.double() - sae.decode(code).to(wanted.device).double()).square().sum()
            )
            total += float((wanted.double() - mean).square().sum())
    found = {name: getattr(sae, name) for name in ("architecture", "d_in", "d_sae", "d_out", "k")}
    return {
        **found,
        "format": sae.cfg.get("format", "husai"),
        "rows": x.shape[0],
        "l0": float(active.sum()) / x.shape[0],
        "dead_fraction": float((active == 0).double().mean()),
        "explained_variance": 1.0 - residual / total if total > 0 else float("nan"),
    }


def _saelens_config(sae: SAE) -> dict[str, Any]:
    same_width = sae.d_in == sae.d_out
    name = SAELENS_NAME[sae.architecture]
    if not same_width:
        name = {
            "relu": "transcoder",
            "jumprelu": "jumprelu_transcoder",
            "batchtopk": "jumprelu_transcoder",
        }.get(sae.architecture, "topk_transcoder")
    config: dict[str, Any] = {
        "architecture": name,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if not same_width:
        config["d_out"] = sae.d_out
    if name.startswith("topk"):
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    notes = {k: v for k, v in sae.cfg.items() if k not in (*OWN, "format")}
    own = {
        "sae_lens_version": FORMAT_VERSION,
        "sae_lens_training_version": None,
        "husai_architecture": sae.architecture,
        "husai_k": sae.k,
    }
    return {**config, "metadata": finite({**notes, **own})}


def _read(path: Path) -> SAE:
    if path.is_file():
        if path.name == WEIGHTS or path.name == "sae.safetensors" or path.name == CONFIG:
            return _read(path.parent)
        if path.name == "ae.pt" and (path.parent / "config.json").is_file():
            return from_dictionary_learning(path.parent)
        if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
            return from_husai_pt(path)
        raise HusaiError(
            f"{path}: not an SAE file; give a .pt file or a directory with {WEIGHTS}, "
            "sae.safetensors or ae.pt"
        )
    if (path / WEIGHTS).is_file():
        return _from_saelens(path)
    if (path / "sae.safetensors").is_file():
        return from_sparsify(path)
    if (path / "ae.pt").is_file():
        return from_dictionary_learning(path)
    pickles = sorted(path.glob("*.pt"))
    if len(pickles) == 1:
        return from_husai_pt(pickles[0])
    if (path / CONFIG).is_file():
        raise HusaiError(
            f"{path}: {CONFIG} is there but its weights ({WEIGHTS} or sae.safetensors) are not; "
            "copy them too"
        )
    if pickles:
        raise HusaiError(
            f"{path}: holds {len(pickles)} .pt files, starting with {pickles[0].name}; name one "
            "of them"
        )
    raise HusaiError(
        f"{path}: no SAE here; a directory needs {WEIGHTS}, sae.safetensors, ae.pt or one .pt file"
    )


def _from_saelens(directory: Path) -> SAE:
    """An SAE in SAELens' format, of version 6 or older, inference or training."""
    where, config = directory / CONFIG, read_config(directory / CONFIG)
    take = Taker(read_tensors(directory / WEIGHTS), directory / WEIGHTS)
    metadata = config.get("metadata") if isinstance(config.get("metadata"), dict) else {}
    own = metadata.get("husai_architecture")
    name, k = _saelens_architecture(config)
    _refuse_unsupported(name, config, take.tensors, where)
    W_enc, W_dec, b_dec = take("W_enc"), take("W_dec"), take("b_dec")
    is_transcoder = "transcoder" in name
    centred = False if is_transcoder else bool(config.get("apply_b_dec_to_input", True))
    notes = metadata or {
        "hook_name": config.get("hook_point"),
        **{k: v for k, v in config.items() if isinstance(v, (str, int, float, bool))},
    }
    cfg = {
        **{key: v for key, v in notes.items() if key not in OWN and v is not None},
        "format": "saelens",
    }
    if name == "gated":
        sae = gated(W_enc, W_dec, take("r_mag"), take("b_gate"), take("b_mag"), b_dec, cfg, centred)
    else:
        b_enc, threshold = take("b_enc"), _saelens_threshold(name, take, W_dec)
        if config.get("rescale_acts_by_decoder_norm"):
            norms = W_dec.norm(dim=1)
            folded = norms.clamp_min(torch.finfo(W_dec.dtype).tiny)
            W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / folded[:, None]
        plain = {
            "standard": "relu",
            "transcoder": "relu",
            "topk": "topk",
            "topk_transcoder": "transcoder",
        }
        architecture = own or plain.get(name, "batchtopk" if "batchtopk" in name else "jumprelu")
        sae = SAE(
            architecture,
            W_enc,
            W_dec,
            b_enc,
            b_dec,
            threshold,
            metadata.get("husai_k") or k,
            cfg,
            centred,
        )
    for key, have in (("d_in", sae.d_in), ("d_sae", sae.d_sae)):
        if config.get(key, have) != have:
            raise HusaiError(
                f"{where}: {key} is {config[key]} but the tensors give {have}; settings and "
                "weights do not belong together"
            )
    return sae


def _saelens_architecture(config: dict[str, Any]) -> tuple[str, int | None]:
    """Architecture name and k; before version 6 TopK was an activation function of the standard
    SAE.
    """
    k = config.get("k")
    function = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    if function == "topk":
        return "topk", (config.get("activation_fn_kwargs") or {}).get("k", k)
    return str(config.get("architecture", "standard")), k


def _refuse_unsupported(name: str, config: dict[str, Any], tensors: Tensors, where: Path) -> None:
    if name not in (*SAELENS_READ, "topk_transcoder"):
        raise HusaiError(
            f"{where}: architecture '{name}' has no counterpart here; read are "
            f"{', '.join(SAELENS_READ)}{nearest(name, SAELENS_READ)}"
        )
    if config.get("normalize_activations") in ("layer_norm", "constant_norm_rescale"):
        raise HusaiError(
            f"{where}: normalize_activations '{config['normalize_activations']}' rescales each "
            "row, which is not supported here"
        )
    scaling = tensors.get("scaling_factor")
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        raise HusaiError(
            f"{where}: the weights carry a finetuning scaling_factor; fold it into W_dec with the "
            "trainer that wrote it"
        )
    function = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    if function not in ("relu", "topk"):
        raise HusaiError(f"{where}: activation_fn '{function}' is not supported; relu and topk are")


def _saelens_threshold(name: str, take: Taker, W_dec: torch.Tensor) -> torch.Tensor | None:
    if "batchtopk" in name:
        return torch.full_like(W_dec[:, 0], float(take("topk_threshold")))
    if not name.startswith("jumprelu"):
        return None
    return take("log_threshold").exp() if "log_threshold" in take.tensors else take("threshold")
