"""Subjects that others trained: a model of the hub, of a local folder or inside an installed
package. Their weights are referred to by revision and SHA-256, not copied; code that comes with a
model is never run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from husai.errors import HusaiError
from husai.provenance import read_json, sha256_file
from husai.subjects import transformer
from husai.subjects.hub import explain, first_line

PACKAGE = "package:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
CONFIG = "config.json"
FORMATS = ("*.safetensors", "*.bin")
ENCODERS = ("ForMaskedLM", "ForNextSentencePrediction")


class ModelFolder(NamedTuple):
    """Where a model lies."""

    folder: Path
    revision: str | None
    """Commit of the hub, version of the package; None for a local folder."""


class Loaded(NamedTuple):
    """A model ready to be studied."""

    model: Any
    """TransformerBridge, in evaluation mode."""
    tokenizer: Any
    """``tokenizers.Tokenizer``."""
    record: dict
    """``reference`` (model, revision, sha256), ``task``, ``n_ctx``, ``special`` and ``separator``
    (between documents), for config.json."""


def locate(model: str, revision: str | None = None) -> ModelFolder:
    """Find (or fetch) the folder of ``model``: ``package:NAME/PATH``, a local folder, or a hub id.

    Raises
    ------
    HusaiError
        The package is not installed, the folder is no model, or the hub has no such model, cannot
        be reached, or asks for a login.
    """
    if model.startswith(PACKAGE):
        source = _in_package(model)
    elif Path(model).expanduser().is_dir():
        source = ModelFolder(Path(model).expanduser(), None)
    elif not HUB_ID.fullmatch(model):
        raise HusaiError(
            f"subject: model '{model}' is neither a folder here nor a hub id (ORGANISATION/NAME)"
        )
    else:
        source = _from_hub(model, revision)
    if not (source.folder / CONFIG).is_file() or not weight_files(source.folder):
        missing = "weights" if (source.folder / CONFIG).is_file() else CONFIG
        raise HusaiError(
            f"subject: '{model}' is no model in Hugging Face layout (no {missing} in "
            f"{source.folder}); give a folder with config.json, tokenizer.json and "
            "model.safetensors"
        )
    return source


def _in_package(model: str) -> ModelFolder:
    name, _, path = model.removeprefix(PACKAGE).partition("/")
    module = name.replace("-", "_")
    found = importlib.util.find_spec(module) if module.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise HusaiError(
            f"subject: model '{model}': no package '{name}' is installed; pip install it, or "
            "correct the name"
        )
    folder = Path(next(iter(found.submodule_search_locations))) / path
    if not folder.is_dir():
        raise HusaiError(f"subject: model '{model}': package '{name}' has no folder '{path}'")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    return ModelFolder(folder, version)


def _from_hub(model: str, revision: str | None) -> ModelFolder:
    from huggingface_hub import snapshot_download

    fetch = partial(snapshot_download, model, revision=revision, ignore_patterns=["*/*"])
    try:
        folder = Path(fetch(allow_patterns=["*.json", "*.txt", "*.model", FORMATS[0]]))
        if not weight_files(folder):
            folder = Path(fetch(allow_patterns=list(FORMATS[1:])))
    except Exception as error:
        raise explain(error, "model", model, revision) from error
    return ModelFolder(folder, folder.name)


def weight_files(folder: Path) -> list[Path]:
    """Files that hold a model's weights: safetensors, and only where there are none, ``.bin``."""
    for pattern in FORMATS:
        files = sorted(p for p in folder.glob(pattern) if p.name != "training_args.bin")
        if files:
            return files
    return []


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a model's weights: of the one file, or over lines ``SHA256  NAME`` by name."""
    hashes = {path.name: sha256_file(path) for path in weight_files(folder)}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def fetch(spec: dict, device: str | torch.device = "cpu") -> Loaded:
    """Model, tokenizer and record of the pretrained subject ``spec``, the values of a
    ``husai.planning.specs.PretrainedSpec``; weights unprocessed (no folding of LayerNorm, no
    centring), so that activations are those of the model as published.

    Raises
    ------
    HusaiError
        No model is named; see :func:`locate`; weights of another SHA-256 than ``spec`` says; an
        architecture that TransformerBridge does not know or that does not read text into one stream
        of tokens; a tokenizer without a fast version.
    """
    if not spec["model"]:
        raise HusaiError(
            f"subject '{spec['name']}': needs model: a hub id such as "
            "EleutherAI/pythia-70m-deduped, a folder, or package:NAME/PATH"
        )
    source = locate(spec["model"], spec["revision"])
    digest = weights_sha256(source.folder)
    if spec["sha256"] not in (None, digest):
        raise HusaiError(
            f"subject: '{spec['model']}': its weights have sha256 {digest}, the configuration says "
            f"{spec['sha256']}; correct one of them"
        )
    fast, own = _tokenizer(spec, source)
    record = {
        "reference": {"model": spec["model"], "revision": source.revision, "sha256": digest},
        "special": _special(fast, own),
        "separator": own.bos_token_id if own.eos_token_id is None else own.eos_token_id,
    }
    model = _boot(spec, source, own, device)
    record["task"] = "embedding" if model.cfg.architecture.endswith(ENCODERS) else "next_token"
    record["n_ctx"] = min(int(model.cfg.n_ctx), int(own.model_max_length))
    if record["task"] == "embedding" and spec["prepend_bos"] is not None:
        raise HusaiError(
            f"subject: '{spec['model']}' is an encoder, whose tokenizer opens each text itself; "
            "leave prepend_bos out"
        )
    return Loaded(model, fast, record)


def is_reference(record: Any) -> bool:
    """Whether a subject's ``config.json`` refers to weights that lie elsewhere."""
    return isinstance(record, dict) and "reference" in record


def load(directory: Path, device: str | torch.device = "cpu") -> tuple[Any, dict]:
    """The model that ``directory/config.json`` describes or refers to, and that record; weights
    that lie in the directory itself (of a randomised copy) take the place of the published ones.

    Raises
    ------
    HusaiError
        See :func:`fetch` and :func:`husai.subjects.transformer.load`; also when the weights are no
        longer those that were recorded.
    """
    record = read_json(directory / transformer.CONFIG)
    if not is_reference(record):
        return transformer.load(directory, device)
    pinned = {key: record["reference"][key] for key in ("revision", "sha256")}
    model = fetch({**record["spec"], **pinned}, device).model
    if (directory / transformer.WEIGHTS).is_file():
        transformer.restore(model, directory)
    return model, record


def _tokenizer(spec: dict, source: ModelFolder) -> tuple[Any, Any]:
    """The fast tokenizer, opening texts as ``prepend_bos`` says, and transformers' own."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as error:
        raise HusaiError(
            f"subject: '{spec['model']}': its tokenizer cannot be loaded "
            f"({first_line(error)}); give a model with a fast tokenizer (tokenizer.json)"
        ) from error
    # Without any vocabulary file transformers makes an empty tokenizer, without a word.
    vocabulary = [source.folder / f for f in getattr(own, "vocab_files_names", {}).values()]
    fast = getattr(own, "backend_tokenizer", None)
    if fast is None or not any(path.is_file() for path in vocabulary):
        raise HusaiError(
            f"subject: '{spec['model']}' has no fast tokenizer (tokenizer.json in "
            f"{source.folder}); add the file or choose another model"
        )
    fast = Tokenizer.from_str(fast.to_str())  # TransformerBridge adds tokens to the one it is given
    fast.no_padding()
    fast.no_truncation()
    if spec["prepend_bos"] is not None:
        _open_with(fast, own, spec)
    return fast, own


def _open_with(fast: Any, own: Any, spec: dict) -> None:
    """Let each text open with the beginning-of-sequence token, or with no special token."""
    from tokenizers import processors

    if not spec["prepend_bos"]:
        fast.post_processor = processors.TemplateProcessing(single=["$A"], special_tokens=[])
        return
    bos = own.bos_token or own.eos_token
    if bos is None:
        raise HusaiError(
            f"subject: '{spec['model']}': prepend_bos is set, but its tokenizer has no token that "
            "begins a sequence; leave prepend_bos out"
        )
    template = [(bos, fast.token_to_id(bos))]
    fast.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=template)


def _special(fast: Any, own: Any) -> dict:
    """Special ids of a tokenizer (an unknown word is text), and how many open and close a text."""
    unknown = own.unk_token_id if own.unk_token != own.bos_token else None
    ids = sorted({int(i) for i in own.all_special_ids} - {unknown})
    around = [i in ids for i in fast.encode("a").ids]
    opening = around.index(False) if False in around else 0
    return {"ids": ids, "opening": opening, "closing": sum(around[opening:])}


def _boot(spec: dict, source: ModelFolder, own: Any, device: str | torch.device) -> Any:
    """The one place that calls TransformerBridge."""
    where = {"device_map": spec["device_map"]} if spec["device_map"] else {"device": str(device)}
    with transformer.quiet():
        from transformer_lens.model_bridge import TransformerBridge

        try:
            model = TransformerBridge.boot_transformers(
                str(source.folder),
                dtype=getattr(torch, spec["dtype"]),
                tokenizer=own,
                trust_remote_code=False,
                **where,
            )
        except Exception as error:
            raise explain(error, "model", spec["model"], spec["revision"]) from error
    config = model.original_model.config
    flags = ("is_audio_model", "is_visual_model", "is_multimodal")
    unfit = any(getattr(model.cfg, flag, False) for flag in flags)
    if unfit or getattr(config, "is_encoder_decoder", False):
        raise HusaiError(
            f"subject: '{spec['model']}' ({model.cfg.architecture}) is not a causal text model or "
            "a text encoder; only these are measured here"
        )
    return model.eval().requires_grad_(False)
