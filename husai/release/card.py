"""The model card of a release: what the hub shows first. Its first line is the verdict, whatever it
is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from husai.errors import HusaiError
from husai.gate.decision import Row, telling
from husai.report.document import plain
from husai.report.quotes import EvidenceFolder, format_value, gate_names
from husai.report.sections import STRICT, status_line
from husai.shown import in_code, in_markdown, markdown_table

VERDICTS = ("RELEASED", "NOT RELEASED", "PASSED AS BROUGHT")
"""How a verdict begins; a card that begins otherwise is not published."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""A repository of the hub; a package or a folder of one's own is none."""


def verdict_of(root: str | Path) -> str:
    """The first line of the gate report of the run below ``root``."""
    return plain(status_line(EvidenceFolder(root).open(STRICT)))


def gate_rows(decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per gate of a ``release_policy.json`` its most telling condition, with the gate's verdict."""
    out = []
    for name in gate_names(decision["gates"]):
        row = telling([Row(**row) for row in decision["rows"] if row["gate"] == name])
        told = {key: getattr(row, key) for key in ("condition", "value", "interval", "asked")}
        verdict = "pass" if decision["gates"][name] else "FAIL"
        out.append({"gate": name, **told, "verdict": verdict})
    return out


def model_card(record: Mapping[str, Any]) -> str:
    """``README.md`` of a release: the hub's header, the verdict, how to load it, gates, what was
    measured, certificates, and how to check it.

    Parameters
    ----------
    record : mapping
        ``release.json``, see :func:`husai.jobs.export.export_job`.
    """
    header = yaml.safe_dump(_header(record), sort_keys=False, allow_unicode=True)
    sae = record["sae"]
    return "\n".join(
        [
            f"---\n{header}---",
            f"# {record['verdict']}",
            "",
            f"{in_code(record['recipe'])}, {in_markdown(sae['name'])}: a "
            f"{in_markdown(sae['architecture'])} sparse autoencoder of {sae['d_sae']} latents at "
            f"{in_code(record['hook_name'])} of {in_code(record['model'])}. {_what(record)}",
            "",
            "```python",
            "from sae_lens import SAE",
            "",
            'sae = SAE.load_from_disk("PATH/TO/THIS/FOLDER")',
            "```",
            "",
            "## Gates",
            "",
            f"Policy {in_code(record['policy'])} on {in_code(record['recipe'])} "
            f"({in_markdown(record['recipe_hash'])}), confirmed with fresh seeds.",
            "",
            *_table(record["gates"]),
            "",
            "## Measured on held-out data",
            "",
            *_table(_measured_rows(record["measured"])),
            "",
            *_certificates(record),
            "",
            *_checks(record),
        ]
    )


def card_verdict(text: str) -> str:
    """The verdict of a model card: the first line behind its header.

    Raises
    ------
    HusaiError
        There is none.
    """
    body = re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.S).lstrip()
    first = body.split("\n", 1)[0].removeprefix("# ").strip()
    if not first.startswith(VERDICTS):
        raise HusaiError(
            "its README.md does not begin with a verdict of the gate; write the folder with husai "
            "export"
        )
    return first


def _header(record: Mapping[str, Any]) -> dict[str, Any]:
    """The hub's metadata; the keys below ``husai`` are our own."""
    about = {
        "verdict": record["verdict"],
        "subject": record["model"],
        "hook": record["hook_name"],
        "recipe": record["recipe"],
        "recipe_hash": record["recipe_hash"],
        "certified_share": round(record["certified_share"], 4),
        "decision_sha256": record["decision"]["sha256"],
    }
    base = {"base_model": record["model"]} if HUB_NAME.fullmatch(record["model"]) else {}
    tags = ["sparse-autoencoder", "saelens", "mechanistic-interpretability", "husai"]
    return {"library_name": "saelens", "tags": tags, **base, "husai": about}


def _what(record: Mapping[str, Any]) -> str:
    if record["certified_only"]:
        return (
            f"Its {record['sae']['d_sae']} certified latents only; the other "
            f"{record['removed']} of the whole SAE were removed. Gates are those of the whole SAE."
        )
    return "Of the confirmed seeds it is the one whose latents reappear most in the others."


def _measured_rows(measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = {
        "explained_variance": "explained variance",
        "l0": "L0",
        "recovered": "faithfulness (recovered), 95%",
    }
    return [
        {"": title} | {sae: _measurement(values.get(key)) for sae, values in measured.items()}
        for key, title in names.items()
    ]


def _measurement(value: Any) -> str:
    if isinstance(value, Mapping):
        number, low, high = (format_value(value[key]) for key in ("value", "lcb", "ucb"))
        return f"{number} [{low}, {high}]"
    return "not measured" if value is None else format_value(value)


def _certificates(record: Mapping[str, Any]) -> list[str]:
    passport = record["passport"]
    return [
        "## Certified latents",
        "",
        f"{passport['certified']} of {passport['living']} living latents "
        f"({record['certified_share']:.1%}) are certified: each reappears in at least half of new "
        f"seeds, and at most {passport['fdr']:.0%} of the certificates are expected to be false. "
        f"Compared with {len(passport['compared_with'])} other seeds. `passport.parquet` has a row "
        "per latent: in which seeds it reappears, theta with its interval, density, share of the "
        "explained variance.",
    ]


def _checks(record: Mapping[str, Any]) -> list[str]:
    files = [record["decision"], *record["evidence"]]
    return [
        "## How to verify",
        "",
        "- This folder: `sha256sum -c SHA256SUMS`.",
        "- The run it came from: `husai verify`, in the folder that holds `results/` and "
        "`reports/`. It makes the decision again from the evidence and hashes every file.",
        "- The decision and the evidence it rests on, by SHA-256:",
        "",
        *_table([{"file": f["path"], "SHA-256": f["sha256"]} for f in files], in_code),
        "",
        "Hashes show that files did not change after they were written, not how they came to be.",
        "",
    ]


def _table(
    rows: Sequence[Mapping[str, Any]], shown: Callable[[str], str] = in_markdown
) -> list[str]:
    def cell(value: Any) -> str:
        return "–" if value in (None, "") else shown(format_value(value))

    return markdown_table([*map(in_markdown, rows[0])], ([*map(cell, r.values())] for r in rows))
