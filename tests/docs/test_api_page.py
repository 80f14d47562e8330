"""The API page shows every public name of the rooms that are used without the pipeline."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text()
ROOMS = re.findall(r"^::: husai\.(\w+)$", PAGE, re.M)
EVERYTHING = r"^::: husai\.{}\n    options:\n      show_root_toc_entry: false\n(?!      members)"


def test_the_page_has_the_rooms_that_say_what_is_public():
    folders = Path(__file__).parents[2].glob("husai/*/__init__.py")
    public = {path.parent.name for path in folders if "__all__" in path.read_text()}
    assert public - {"config", "subjects", "brought"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_shown_and_documented(room):
    module = importlib.import_module(f"husai.{room}")
    assert re.search(EVERYTHING.format(room), PAGE, re.M), "all of __all__, no chosen members"
    for name in module.__all__:
        found = getattr(module, name)
        if not callable(found):
            continue
        assert inspect.getdoc(found), name
        # Documents of a name that is also a module's have to say which is meant.
        clash = found.__module__ == f"husai.{room}.{name}"
        assert not clash or f"::: husai.{room}.{name}.{name}\n" in PAGE, name
