"""Where the Snakefile and its folders lie: in a checkout, or where the wheel put them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from husai.errors import HusaiError


def workflow_folder() -> Path:
    """The folder that holds ``Snakefile``, ``rules/``, ``config/``, ``profiles/`` and
    ``workflow/``.

    Raises
    ------
    HusaiError
        The package lies without them.
    """
    above = Path(__file__).resolve().parents[1]
    for folder in (above, above / "share/husai"):  # a checkout; pip install --target
        if (folder / "Snakefile").is_file():
            return folder
    try:
        files = importlib.metadata.files("husai") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "Snakefile":
            return Path(str(file.locate())).resolve().parent
    raise HusaiError(
        "the workflow (Snakefile, rules/) is not installed with this package; install the wheel "
        "with pip, or run in a checkout"
    )
