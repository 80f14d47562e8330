"""The evidence of the confirmed candidate (``husai summarize confirmation``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import new_record

BENCHES = ("saebench", "cebench", "faithfulness")


def confirmation_job(spec, inputs: Sequence[str], out: Path) -> None:
    """Write ``integrity``, ``saebench``, ``cebench`` and ``faithfulness`` beside ``out`` (``phase:
    confirmation``), put the candidate's ``stability`` there as it was measured, and close the
    attempt in the ledger. Of ``inputs`` one is ``selected_candidate.json``; the rest lies in
    ``out``'s folder.
    """
    from husai.jobs.attempt import finish
    from husai.selection.chosen import read_candidate
    from husai.stability.record import StabilityRecord
    from husai.summaries import confirmation, faithfulness

    folder = out.parent
    recipe, _ = read_candidate(next(p for p in inputs if Path(p).name == "selected_candidate.json"))
    roles = {
        role: provenance.read_json(folder / role / "recipe.json")
        for role in ("candidate", "frozen")
    }
    records = {
        bench: [
            [folder / f"external/{role}/seed{seed}/{bench}.json" for seed in described["seeds"]]
            for role, described in roles.items()
        ]
        for bench in BENCHES
    }
    stability = StabilityRecord(folder / "stability/candidate.json")
    provenance.write_text(folder / "stability.json", stability.path.read_text())
    described = folder / "candidate/recipe.json"
    written = {
        "integrity": confirmation.integrity(spec, recipe, described, stability),
        "saebench": confirmation.saebench(spec, recipe, *records["saebench"]),
        "cebench": cebench_evidence(spec, *records["cebench"]),
        "faithfulness": faithfulness.evidence(spec, recipe, *records["faithfulness"]),
    }
    for name, record in written.items():
        provenance.write_json(folder / f"{name}.json", record)
    if not roles["candidate"].get("not_fresh"):
        names = ("integrity", "stability", *BENCHES)
        finish(recipe, folder, [str(folder / f"{name}.json") for name in names])


def cebench_evidence(
    spec, record_paths: Sequence[str | Path], frozen_paths: Sequence[str | Path]
) -> dict:
    """Evidence of one recipe over its seeds against its frozen-decoder control, from records of
    single SAEs on the same pairs.

    Raises
    ------
    HusaiError
        The records are not all of one recipe, or there are none.
    """
    from husai.cebench.evidence import recipe_metrics

    records, frozen = (
        [provenance.read_json(p) for p in paths] for paths in (record_paths, frozen_paths)
    )
    hashes = {r["recipe_hash"] for r in records}
    if len(hashes) != 1:
        raise HusaiError(
            f"CE-Bench: {len(records)} records hold {len(hashes)} recipes; give the records of "
            "one recipe"
        )
    first = records[0]
    return new_record(
        "cebench",
        first["subject"],
        first["recipe"],
        first["recipe_hash"],
        recipe_metrics(records, frozen),
        [*record_paths, *frozen_paths],
        spec.values(),
        [r["seed"] for r in records],
        split=first["split"],
        d_sae=first["d_sae"],
        pairs_hash=first["pairs_hash"],
        phase="confirmation",
    )
