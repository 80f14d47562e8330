"""Where policies lie: shipped with the package, in a folder ``policies`` here, or a file."""

from __future__ import annotations

from pathlib import Path

from husai.artifacts import read_text
from husai.errors import HusaiError, nearest
from husai.gate.policy import Policy
from husai.gate.policy_reader import parse_policy


def shipped_policies() -> Path:
    """Folder of the policies that come with the code."""
    return Path(__file__).resolve().parent / "policies"


def policy_file(name_or_path: str | Path) -> Path:
    """File of a policy given by name (``strict``, ``cycle3``) or by path.

    Raises
    ------
    HusaiError
        When there is no such file; for a name with the known ones and the nearest.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")) or "/" in text or Path(text).is_file():
        if not Path(text).is_file():
            raise HusaiError(f"{text}: no such policy file")
        return Path(text)
    places = (shipped_policies(), Path("policies"))
    path = next((p for folder in places if (p := folder / f"{text}.yaml").is_file()), None)
    if path is None:
        known = sorted({p.stem for folder in places for p in folder.glob("*.yaml")})
        raise HusaiError(
            f"policy '{text}' is unknown; known: {', '.join(known)}, or give a YAML "
            f"file{nearest(text, known)}"
        )
    return path


def policy_name(name_or_path: str | Path) -> str:
    """What a policy's folder below ``results/gate/`` is called: its name, or its file's stem."""
    path = Path(name_or_path)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name


def load_policy(name_or_path: str | Path) -> Policy:
    """Load a policy by name (``strict``, ``cycle3``) or by file.

    Raises
    ------
    HusaiError
        One line listing every mistake in the file, or the known names when there is no such policy.
    """
    path = policy_file(name_or_path)
    return parse_policy(read_text(path), str(path))
