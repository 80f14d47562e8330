"""Reading configuration files: overlays merged, every mistake reported at once with file, key,
value and what was expected.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import yaml
from pydantic import ValidationError

from husai.config.checks import cross_checks
from husai.config.mistakes import mistakes
from husai.config.schema import Config
from husai.errors import HusaiError

LARGEST = 100_000
"""Most values that a configuration may hold, aliases counted as often as they are used: a hundred
times the largest shipped one. Text of one page can stand for more than any memory holds."""


class _Loader(yaml.SafeLoader):
    """YAML loader that notes duplicate keys, of which YAML itself keeps the last silently."""

    def __init__(self, stream: IO[str], name: str) -> None:
        super().__init__(stream)
        self.name = name
        self.duplicates: list[str] = []


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue  # `<<: *block`: construct_mapping puts the block's keys in
        key = loader.construct_object(key_node, deep=True)
        if repr(key) in seen:
            loader.duplicates.append(
                f"{loader.name}: line {key_node.start_mark.line + 1}: key '{key}' is given twice; "
                "keep one"
            )
        seen.add(repr(key))
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for; ``known`` holds the sizes of nodes met before."""
    if id(node) not in known:
        known[id(node)] = LARGEST + 1  # what a block that contains itself amounts to
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_size(n, known) for n in flat)
    return known[id(node)]


def read_yaml(path: str | Path, duplicates: list[str] | None = None) -> dict:
    """Read a YAML mapping; broken syntax, a missing file and, unless they are collected in
    ``duplicates``, duplicate keys are errors.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            loader = _Loader(handle, str(path))
            node = loader.get_single_node()
            if node is not None and _size(node, {}) > LARGEST:
                raise HusaiError(
                    f"{path}: its aliases stand for over {LARGEST} values; write out what is meant"
                )
            value = (loader.construct_document(node) if node is not None else None) or {}
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such file; give the path of a YAML configuration") from None
    except OSError as error:
        raise HusaiError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise HusaiError(f"{path}: nested too deeply; a configuration has few levels") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        raise HusaiError(
            f"{path}: line {mark.line + 1 if mark else '?'}: not valid YAML ({why})"
        ) from None
    if not isinstance(value, dict):
        raise HusaiError(f"{path}: expected a mapping of keys, found {type(value).__name__}")
    if duplicates is not None:
        duplicates += loader.duplicates
    elif loader.duplicates:
        raise HusaiError(*loader.duplicates)
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
