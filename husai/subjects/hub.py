"""What went wrong with a model or data set of the hub, in one line that says what to do."""

from __future__ import annotations

from husai.errors import HusaiError

AWAY = (
    "connect",
    "resolve",
    "offline",
    "network",
    "unreachable",
    "timed out",
    "timeout",
    "max retries",
    "proxy",
    "ssl",
    "localentrynotfound",
)
"""Words in a chain of errors that mean: the hub was not reached."""


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def explain(error: Exception, what: str, name: str, revision: str | None) -> HusaiError:
    """One line for what went wrong while fetching or loading ``what`` ("model", "data set")."""
    chain, cause = [], error
    while cause is not None and len(chain) < 8:
        chain.append(f"{type(cause).__name__}: {cause}".lower())
        cause = cause.__cause__ or cause.__context__
    everything, first = " ".join(chain), first_line(error)
    named = f"'{name}'" + (f" at revision '{revision}'" if revision else "")
    if "trust_remote_code" in everything or "custom code" in everything:
        return HusaiError(
            f"{what} {named} needs code that comes with it (trust_remote_code), which is never "
            "run here; choose another"
        )
    if "gatedrepo" in everything or "401 client error" in everything:
        return HusaiError(
            f"{what} {named} does not exist on the hub or asks for a login ({first}); check the "
            "name, accept its licence and log in with 'hf auth login'"
        )
    if "repositorynotfound" in everything or "revisionnotfound" in everything:
        return HusaiError(f"{what} {named}: the hub has none; check name and revision")
    if any(word in everything for word in AWAY):
        return HusaiError(
            f"{what} {named}: the hub cannot be reached ({first}); run on a machine with network, "
            "set HF_HOME to a cache that holds it, or give a local folder"
        )
    return HusaiError(
        f"{what} {named} cannot be loaded ({first}); check name and revision, and free memory "
        "and disk"
    )
