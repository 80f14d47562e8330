"""The errors a user sees: a single line saying what is wrong, where, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class HusaiError(Exception):
    """A mistake the user can act on: the command line prints each argument on a line, exits 1."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class RecipeFailed(HusaiError):
    """A recipe cannot be trained or measured as defined: it diverged, its L0 is out of reach. Where
    recipes are compared, a result.
    """


MALFORMED = (
    TypeError,
    KeyError,
    AttributeError,
    ValueError,
    IndexError,
    ArithmeticError,
    RecursionError,
)
"""What code meets that takes a value from a file for what it should be."""


@contextlib.contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn whatever goes wrong with the content of a file into one line that names it (``what``).

    Raises
    ------
    HusaiError
        The block raised one of :data:`MALFORMED`.
    """
    try:
        yield
    except MALFORMED as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise HusaiError(
            f"{what}: malformed ({why}); restore it, or run the job that writes it again"
        ) from error


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    import difflib

    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
