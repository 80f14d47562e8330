"""Verb ``publish``: upload an exported SAE to the model hub, never without its verdict."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import HusaiError
from husai.jobs.arguments import describe
from husai.jobs.export import CARD, RECORD
from husai.provenance import read_json, sha256_file
from husai.report.mirror import SUMS
from husai.shown import printable


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="a folder that husai export wrote",
        writes="a repository of the model hub (HF_ENDPOINT, with the token of 'hf auth login' or "
        "HF_TOKEN)",
        costs="one upload",
    )
    command.add_argument("repository", metavar="REPO", help="its name on the hub, ORG/NAME")
    command.add_argument(
        "--folder",
        type=Path,
        default=Path("results/release"),
        help="what to upload (default %(default)s)",
    )
    command.add_argument("--private", action="store_true", help="visible to its owners only")


def run(args: Namespace) -> None:
    """Upload and print the address and the verdict."""
    address, verdict = publish_job(args.repository, args.folder, private=args.private)
    print(f"{printable(address)}\n{printable(verdict)}")


def publish_job(repository: str, folder: str | Path, *, private: bool = False) -> tuple[str, str]:
    """Upload the files that ``SHA256SUMS`` names, and that file.

    Returns
    -------
    tuple of str
        Address of the commit, and the verdict in the first line of the card.

    Raises
    ------
    HusaiError
        A file that changed after the export, a card without the verdict of its decision, no
        huggingface_hub, or a hub that is away or refuses.
    """
    folder = Path(folder)
    names = checked_files(folder)
    verdict = checked_verdict(folder)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise HusaiError(
            "needs huggingface_hub, which is not installed; pip install 'husai[formats]'"
        ) from None
    api = HfApi()  # HF_ENDPOINT and HF_TOKEN are its own business
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[*names, SUMS],
            commit_message=verdict,
        )
    except HFValidationError as error:
        raise HusaiError(f"'{repository}' is no name of a repository ({error})") from None
    except HfHubHTTPError as error:
        raise HusaiError(
            f"{api.endpoint} refused {repository} ({_line(error)}); {_advice(error)}"
        ) from None
    except OSError as error:
        raise _away(api.endpoint, error) from None
    except Exception as error:
        if not type(error).__module__.startswith("http"):  # its HTTP client: httpx or httpx2
            raise
        raise _away(api.endpoint, error) from None
    return str(commit.commit_url), verdict


def checked_files(folder: Path) -> list[str]:
    """Names of the files in ``SHA256SUMS``, all of which have the bytes they were exported with.

    Raises
    ------
    HusaiError
        There is no ``SHA256SUMS``, or a file that it names is missing or has other bytes.
    """
    if not (folder / SUMS).is_file():
        raise HusaiError(f"{folder}: holds no {SUMS}; write the folder with husai export")
    names = []
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        sha256, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file() or sha256_file(path) != sha256:
            raise HusaiError(f"{path}: is not what husai export wrote; export again")
        names.append(name)
    return names


def checked_verdict(folder: Path) -> str:
    """The verdict that the card begins with, which must be that of the exported decision.

    Raises
    ------
    HusaiError
        The card or the decision is missing, or the card begins with another verdict or none.
    """
    from husai.release.card import card_verdict

    card, record = folder / CARD, folder / RECORD
    if not card.is_file() or not record.is_file():
        raise HusaiError(f"{folder}: holds no {CARD} and {RECORD}; write it with husai export")
    try:
        verdict = card_verdict(card.read_text(encoding="utf-8"))
    except HusaiError as error:
        raise HusaiError(f"refused: {card}: {error}") from None
    if verdict != read_json(record)["verdict"]:
        raise HusaiError(f"refused: {card}: says '{verdict}', which is not the verdict in {RECORD}")
    return verdict


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _advice(error) -> str:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return "log in with 'hf auth login', with a token that may write there"
    return "try again later, or with another name"


def _away(endpoint: str, error: BaseException) -> HusaiError:
    return HusaiError(
        f"{endpoint} cannot be reached ({_line(error)}); check the network and "
        "HF_ENDPOINT, then run again"
    )
