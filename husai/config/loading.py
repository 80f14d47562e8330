"""Reading configuration files: overlays merged, every mistake reported at once with file, key,
value and what was expected.
"""

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
        nested = isinstance(value, dict)
        old = out.get(key)
        out[key] = (
            merge(old if nested and isinstance(old, dict) else {}, value, origins, source, where)
            if nested
            else value
        )
    return out


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
        lines = [
            f"{_origin(where, origins, default)}: {'.'.join(where)}: {phrase}"
            for where, phrase in mistakes(error, Config)
        ]
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
        raise HusaiError(*lines)
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
