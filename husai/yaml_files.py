"""YAML that is read with one clear line of error: bounded in size, depth and digits, with every
duplicate key noted. Of the package it needs :mod:`husai.artifacts` only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from husai.artifacts import read_text
from husai.errors import HusaiError

LARGEST = 100_000
"""Most values that a file may hold, aliases counted as often as they are used: a hundred times the
largest shipped one. Text of one page can stand for more than any memory holds."""
MOST_BITS = 4096
"""Of a whole number: beyond it Python does not even print one."""


class _Loader(yaml.SafeLoader):
    """YAML loader that notes duplicate keys, of which YAML itself keeps the last silently."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[tuple[int, Any]] = []


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue  # `<<: *block`: construct_mapping puts the block's keys in
        key = loader.construct_object(key_node, deep=True)
        if repr(key) in seen:
            loader.duplicates.append((key_node.start_mark.line + 1, key))
        seen.add(repr(key))
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    value = loader.construct_yaml_int(node)
    if value.bit_length() > MOST_BITS:
        raise ValueError(f"a whole number of {value.bit_length()} bits")
    return value


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for; ``known`` holds the sizes of nodes met before."""
    if id(node) not in known:
        known[id(node)] = LARGEST + 1  # what a block that contains itself amounts to
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_size(n, known) for n in flat)
    return known[id(node)]


def parse_yaml(text: str, where: str | Path) -> tuple[Any, list[tuple[int, Any]]]:
    """The value of YAML text (None where it is empty), and line and name of every key that is given
    twice; ``where`` names the text in errors.

    Raises
    ------
    HusaiError
        Broken syntax, a key that is no text or number, an impossible date, a number of over
        :data:`MOST_BITS` bits, deep nesting, aliases that stand for over :data:`LARGEST` values.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > LARGEST:
            raise HusaiError(
                f"{where}: its aliases stand for over {LARGEST} values; write out what is meant"
            )
        return None if node is None else loader.construct_document(node), loader.duplicates
    except RecursionError:
        raise HusaiError(f"{where}: nested too deeply; write it with few levels") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        raise HusaiError(
            f"{where}: line {mark.line + 1 if mark else '?'}: not valid YAML ({why})"
        ) from None


def load_yaml(path: str | Path) -> Any:
    """The value of a YAML file; the last of keys that are given twice. HusaiError as
    :func:`parse_yaml` and :func:`husai.artifacts.read_text` raise it.
    """
    return parse_yaml(read_text(path), path)[0]
