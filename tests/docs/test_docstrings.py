"""Public docstrings say what a caller must know: the shapes of arrays, and which errors are
raised."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARRAY = re.compile(r"\b(ndarray|NDArray|Tensor)\b")
SHAPE = re.compile(r"\([\w.<][^()]*,[^()]*\)|\bshape\b|\bper \w+|\bscalar\b")
"""A shape in brackets, or in words: one value per row, a scalar."""
EXPLAINED = {"NotImplementedError", "AssertionError", "SystemExit", "StopIteration"}
"""Errors that no caller is to handle."""


def public(path):
    """Public functions and methods of a file, ``run`` and ``add_arguments`` of the verbs left out:
    their errors are lines on a terminal."""
    verbs = {"run", "add_arguments"} if path.parent.name == "jobs" else set()
    stack = [ast.parse(path.read_text())]
    while stack:
        for node in stack.pop().body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                stack.append(node)
            if (
                isinstance(node, ast.FunctionDef)
                and not node.name.startswith("_")
                and node.name not in verbs
            ):
                yield node


def raised(function):
    """Names of the errors that leave the function's own body."""
    found, stack = set(), list(function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Try):  # what its body raises, its handlers turn into something else
            stack += [*node.handlers, *node.orelse, *node.finalbody]
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            found |= {name} if name[0].isupper() else set()
        stack += ast.iter_child_nodes(node)
    return found - EXPLAINED


def annotations(function):
    arguments = function.args.args + function.args.kwonlyargs
    given = [a.annotation for a in arguments if a.annotation]
    return [ast.unparse(a) for a in (*given, function.returns) if a is not None]


def test_public_docstrings_give_shapes_and_errors():
    silent = []
    for path in sorted((ROOT / "husai").rglob("*.py")):
        for function in public(path):
            where = f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
            said = ast.get_docstring(function) or ""
            if any(ARRAY.search(a) for a in annotations(function)) and not SHAPE.search(said):
                silent.append(f"{where}: the shapes of its arrays")
            silent += [f"{where}: {error}" for error in raised(function) if error not in said]
    assert not silent, "docstrings do not say:\n" + "\n".join(silent)
