"""Subjects from the model hub, by TransformerLens name; fetched once, then kept like any other
subject.
"""

from __future__ import annotations

from typing import Any

import torch

from husai.errors import HusaiError, nearest
from husai.subjects import transformer

KEYS = ("model_name", "revision", "n_ctx", "dtype", "seed")


def settings(spec: dict) -> dict:
    """The spec's own fields with defaults; an unknown key or a missing ``model_name`` is one clear
    error.
    """
    passive = {"kind", "name", "hooks", "randomise", "threads", "corpus"}
    where = f"subject '{spec.get('name', 'hub')}'"
    for key in spec:
        if key not in KEYS and key not in passive:
            raise HusaiError(f"{where}: unknown key '{key}'{nearest(key, KEYS)}")
    if not spec.get("model_name"):
        raise HusaiError(
            f"{where}: needs model_name, a TransformerLens name such as pythia-70m-deduped"
        )
    return {
        "revision": None,
        "n_ctx": None,
        "dtype": "float32",
        "seed": 0,
        **{k: spec[k] for k in KEYS if k in spec},
    }


def fetch(spec: dict, device: str | torch.device = "cpu") -> tuple[Any, Any]:
    """Model and ``tokenizers.Tokenizer`` of a hub subject, weights unprocessed (no LayerNorm
    folding, no centring).

    Raises
    ------
    HusaiError
        Unknown model, hub unreachable (with what to do instead), or a tokenizer that cannot be
        stored.
    """
    s = settings(spec)
    try:
        model = from_hub(s)
    except HusaiError:
        raise
    except Exception as error:
        raise _explain(error, s) from error
    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise HusaiError(
            f"subject '{s['model_name']}': its tokenizer has no fast version to store; choose "
            "another model"
        )
    model.tokenizer = None
    return model.to(device, print_details=False).eval().requires_grad_(False), fast


def from_hub(s: dict):
    """Call TransformerLens; the one place that touches the network."""
    with transformer.quiet():
        from transformer_lens import HookedTransformer

        revision = {"revision": s["revision"]} if s["revision"] else {}
        dtype = getattr(torch, s["dtype"])
        return HookedTransformer.from_pretrained_no_processing(
            s["model_name"], device="cpu", dtype=dtype, **revision
        )


def _explain(error: Exception, s: dict) -> HusaiError:
    """One line for what went wrong while loading from the hub."""
    name, text = s["model_name"], f"{type(error).__name__}: {error}".splitlines()[0][:200]
    words = text.lower()
    chain, cause = [words], error
    while (cause := cause.__cause__ or cause.__context__) is not None and len(chain) < 8:
        chain.append(f"{type(cause).__name__}: {cause}".lower())
    everything = " ".join(chain)
    if (
        "not found" in words
        and "valid" in everything
        and "model" in everything
        and "connect" not in everything
    ):
        return HusaiError(
            f"subject: '{name}' is not a TransformerLens model name ({text}); see "
            "transformer_lens' model table"
        )
    signs = (
        "connect",
        "resolve",
        "offline",
        "network",
        "unreachable",
        "timed out",
        "timeout",
        "max retries",
        "proxy",
        "ssl",
        "localentrynotfound",
        "couldn't reach",
    )
    if any(sign in everything for sign in signs):
        return HusaiError(
            f"subject: the model hub cannot be reached for '{name}' ({text}); run on a machine "
            "with network, set HF_HOME to a cache that "
            "holds the model, or use the embedded default (config/config.yaml), whose language "
            "subject is trained here"
        )
    return HusaiError(
        f"subject: '{name}' cannot be loaded ({text}); check model_name and revision, free memory "
        "and disk"
    )
