"""Reading configuration files: overlays merged, every mistake reported at once with file, key,
value and what was expected.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import yaml
from pydantic import BaseModel, ValidationError

from husai.config.checks import cross_checks
from husai.config.schema import Config
from husai.errors import HusaiError, nearest


class _Loader(yaml.SafeLoader):
    """YAML loader that notes duplicate keys, of which YAML itself keeps the last silently."""

    def __init__(self, stream: IO[str], name: str) -> None:
        super().__init__(stream)
        self.name = name
        self.duplicates: list[str] = []


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=deep)
        if repr(key) in seen:
            loader.duplicates.append(
                f"{loader.name}: line {key_node.start_mark.line + 1}: key '{key}' is given twice; "
                "keep one"
            )
        seen.add(repr(key))
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
    lambda loader, node: _mapping(loader, node, deep=True),
)


def read_yaml(path: str | Path, duplicates: list[str] | None = None) -> dict:
    """Read a YAML mapping; broken syntax, a missing file and, unless they are collected in
    ``duplicates``, duplicate keys are errors.
    """
    try:
        with open(path) as handle:
            loader = _Loader(handle, str(path))
            value = loader.get_single_data() or {}
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such file; give the path of a YAML configuration") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise HusaiError(
            f"{path}: line {mark.line + 1 if mark else '?'}: not valid YAML "
            f"({getattr(error, 'problem', error)})"
        ) from None
    if not isinstance(value, dict):
        raise HusaiError(f"{path}: expected a mapping of keys, found {type(value).__name__}")
    if duplicates is not None:
        duplicates += loader.duplicates
    elif loader.duplicates:
        raise HusaiError("\n".join(loader.duplicates))
    return value


def merge(
    base: dict, over: dict, origins: dict | None = None, source: str = "", prefix: tuple = ()
) -> dict:
    """Deep-merge ``over`` into a copy of ``base``; note in ``origins`` which file set each key.

    Lists replace lists. A block with another ``kind`` replaces the whole block.
    """
    out = {} if "kind" in over and over["kind"] != base.get("kind", over["kind"]) else dict(base)
    for key, value in over.items():
        where = (*prefix, str(key))
        if origins is not None:
            origins[where] = source
        nested = isinstance(value, dict)
        old = out.get(key)
        out[key] = (
            merge(old if nested and isinstance(old, dict) else {}, value, origins, source, where)
            if nested
            else value
        )
    return out


# What pydantic puts into the place of an error besides the keys: the form of a value that may have
# several.
FORMS = ("int", "float", "str", "one", "each", "union")
FORM_PREFIXES = ("function-", "list[", "dict[", "literal[", "constrained-", "tuple[", "union[")


def load(paths: Sequence[str | Path], override: dict | None = None) -> Config:
    """Load and validate configuration files, later ones overlaying earlier ones.

    Parameters
    ----------
    paths : sequence of path
        YAML files; the first is the base.
    override : dict, optional
        Values laid over all files (Snakemake's ``--config``).

    Raises
    ------
    HusaiError
        With one line per mistake: file, key, value, what was expected.
    """
    origins: dict[tuple, str] = {}
    raw: dict = {}
    duplicates: list[str] = []
    for path in paths:
        raw = merge(raw, read_yaml(path, duplicates), origins, str(path))
    if override:
        raw = merge(raw, override, origins, "--config")
    default = str(paths[-1]) if paths else "configuration"
    lines, config = [], None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = _explain(error, origins, default)
        with contextlib.suppress(ValidationError):
            config = Config.model_validate(
                _mend(raw, read_yaml(paths[0], []) if paths else {}, error)
            )
    problems = cross_checks(config) if config is not None else []
    lines += [
        f"{_origin(problem.split(':')[0].split('.'), origins, default)}: {problem}"
        for problem in problems
    ]
    lines = duplicates + lines
    if lines or config is None:
        raise HusaiError("\n".join(lines))
    return config


def _origin(where: Sequence[str], origins: dict[tuple, str], default: str) -> str:
    """The file that set a key, or the nearest key above it."""
    return next(
        (
            origins[tuple(where[:n])]
            for n in range(len(where), 0, -1)
            if tuple(where[:n]) in origins
        ),
        default,
    )


def _mend(raw: dict, base: dict, error: ValidationError) -> dict:
    """``raw`` with every faulty value put back to the base's, so that the checks across keys can
    run as well.
    """
    mended = json.loads(json.dumps(raw, default=str))
    for item in error.errors():
        here, there = mended, base
        for part in item["loc"]:
            inside = isinstance(here, dict) and part in here
            if (
                inside
                and isinstance(here[part], dict)
                and isinstance(there, dict)
                and part in there
                and part != item["loc"][-1]
            ):
                here, there = here[part], there[part]
            elif inside:
                here.pop(part)
                if isinstance(there, dict) and part in there:
                    here[part] = there[part]
                break
    return mended


def _explain(error: ValidationError, origins: dict[tuple, str], default: str) -> list[str]:
    lines = []
    for item in error.errors():
        where = tuple(
            str(p)
            for p in item["loc"]
            if str(p) not in ("modular", "language", "pretrained")
            or len(item["loc"]) < 3
            or p != item["loc"][2]
        )
        where = tuple(p for p in where if p not in FORMS and not p.startswith(FORM_PREFIXES))
        lines.append(f"{_origin(where, origins, default)}: {'.'.join(where)}: {_phrase(item)}")
    return list(dict.fromkeys(lines))


def _phrase(item: dict) -> str:
    value = item["input"]
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) < 80 else shown[:77] + "..."
    if item["type"] == "extra_forbidden":
        return f"unknown key, set to {shown}{nearest(item['loc'][-1], _known_keys(item['loc']))}"
    if item["type"] == "missing":
        return "missing; this key is required"
    if item["type"] in ("model_type", "dict_type"):
        return f"got {shown}, expected a block of keys"
    if item["type"] == "string_pattern_mismatch":
        return f"got {shown}, it should match {item['ctx']['pattern']}"
    if isinstance(value, str):
        try:
            float(value)
            hint = f"; YAML reads {value} as text here, write it as {float(value):.1e}".replace(
                "e-0", "e-"
            ).replace("e+0", "e+")
            return f"got the text {shown}, expected a number{hint}"
        except ValueError:
            pass
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"got {shown}, {message.replace('input should', 'it should')}"


def _known_keys(loc: tuple) -> list[str]:
    names: list[str] = []
    stack: list[type[BaseModel]] = [Config]
    for model in stack:
        names += list(model.model_fields)
        for field in model.model_fields.values():
            stack += [m for m in models_in(field.annotation) if m not in stack]
    return names


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in models_in(part)]
