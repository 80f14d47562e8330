"""Configuration files: overlays merged, every mistake at once with file, key and value."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from husai.artifacts import read_text
from husai.config.checks import cross_checks
from husai.config.mistakes import mistakes
from husai.config.schema import Config
from husai.errors import HusaiError
from husai.yaml_files import parse_yaml


def read_yaml(path: str | Path, duplicates: list[str] | None = None) -> dict:
    """Read a YAML mapping; an empty file is an empty one.

    Raises
    ------
    HusaiError
        The file is missing, is not YAML or no mapping, or gives a key twice while ``duplicates``,
        which collects the lines about those, is None.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such file; give the path of a YAML configuration") from None
    value, twice = parse_yaml(text, path)
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise HusaiError(f"{path}: expected a mapping of keys, found {type(value).__name__}")
    lines = [f"{path}: line {line}: key '{key}' is given twice; keep one" for line, key in twice]
    if duplicates is not None:
        duplicates += lines
    elif lines:
        raise HusaiError(*lines)
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
        if isinstance(value, dict):
            old = out.get(key)
            value = merge(old if isinstance(old, dict) else {}, value, origins, source, where)
        out[key] = value
    return out


def load(paths: Sequence[str | Path], override: dict | None = None) -> Config:
    """Load and validate YAML files, of which later ones overlay earlier ones, and ``override``
    (Snakemake's ``--config``) all.

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
    lines, config = duplicates, None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines += [
            f"{_origin(where, origins, default)}: {'.'.join(where)}: {phrase}"
            for where, phrase in mistakes(error, Config)
        ]
        base = read_yaml(paths[0], []) if paths else {}
        with contextlib.suppress(ValidationError):
            config = Config.model_validate(_mend(raw, base, error))
    lines += [
        f"{_origin(problem.split(':')[0].split('.'), origins, default)}: {problem}"
        for problem in (cross_checks(config) if config is not None else [])
    ]
    if lines or config is None:
        raise HusaiError(*lines)
    return config


def _origin(where: Sequence[str], origins: dict[tuple, str], default: str) -> str:
    """The file that set a key, or the nearest key above it."""
    above = (tuple(where[:n]) for n in range(len(where), 0, -1))
    return next((origins[keys] for keys in above if keys in origins), default)


def _mend(raw: dict, base: dict, error: ValidationError) -> dict:
    """``raw`` with the base's values for faulty ones, so that checks across keys run as well."""
    mended = json.loads(json.dumps(raw, default=str))
    for item in error.errors():
        here, there = mended, base
        for part in item["loc"]:
            if not isinstance(here, dict) or part not in here:
                continue
            known = isinstance(there, dict) and part in there
            if known and isinstance(here[part], dict) and part != item["loc"][-1]:
                here, there = here[part], there[part]
                continue
            here.pop(part)
            if known:
                here[part] = there[part]
            break
    return mended
