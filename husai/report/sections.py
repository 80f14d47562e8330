"""What the gate report says, section by section; every number is a cursor into the evidence."""

from __future__ import annotations

from typing import Any

from husai.gate.policy import CHANGED, is_shipped
from husai.gate.verdict import AS_BROUGHT, RELEASED
from husai.report.document import Bullets, Inline, Paragraph, Report, ReportSection, Table
from husai.report.front.candidates import candidates_section
from husai.report.front.verdict import verdict_section
from husai.report.front.words import words_section
from husai.report.gates import decision_tables
from husai.report.quotes import EvidenceFolder, Quote, gate_names
from husai.report.records import (
    missing,
    passport_blocks,
    records_blocks,
    selftest_blocks,
    summary_blocks,
)
from husai.report.tables import compare_table

STRICT = "results/gate/strict/release_policy.json"
CYCLE3 = "results/gate/cycle3/release_policy.json"
STAGES = {
    "Baseline": ("baseline/summary", "Is a trained SAE more reproducible than chance?"),
    "Ablations": ("ablations/summary", "How do width and sparsity change it?"),
    "Calibration": (
        "calibration/summary",
        "Which sparsity is the most reproducible one that still reconstructs?",
    ),
    "Consistency": (
        "consistency/summary",
        "Does training towards agreement help, reference pairs left out?",
    ),
    "Frontier": (
        "external/frontier",
        "Which architecture does best on external benchmarks at one L0?",
    ),
    "Scaling": ("external/scaling", "What do more tokens, other layers and more latents change?"),
}
"""Of every stage its summary, ``results/....json``, and what it asks."""
RUNS = "Runs, with command, commit, seeds and outcome: `experiment_log.md`. Stages: `dag.svg`."
RECORDS = {
    "Selection": ("results/selection/**/*.json", "results/selection/selected_candidate.json"),
    "Confirmation": ("results/confirmation/*.json", "results/confirmation/stability.json"),
    "Stress": ("results/stress/*.json", "results/stress/ood.json"),
}


def build(source: EvidenceFolder) -> Report:
    """The whole report from the evidence below ``source.root``."""
    strict = source.open(STRICT)
    released = _shipped(strict) and _stated(strict) is not None
    details = [
        ReportSection("Decision", _decision(source)),
        ReportSection("Negative results", _failures(source)),
        ReportSection("Original policy (cycle3)", _policy(source, CYCLE3)),
        _asking("Self-test", "Does the gate say no when it should?", selftest_blocks(source)),
        ReportSection("Subjects", _subjects(source)),
        *(
            _asking(title, asked, summary_blocks(source, f"results/{name}.json"))
            for title, (name, asked) in STAGES.items()
        ),
        *(ReportSection(title, records_blocks(source, *where)) for title, where in RECORDS.items()),
        _asking(
            "Passports of latents",
            "Which single latents come back in fresh seeds?",
            passport_blocks(source),
        ),
        ReportSection("Provenance", _provenance(source)),
    ]
    front = [verdict_section(strict), candidates_section(source)]
    words = words_section([*front, *details])
    folded = [section._replace(folded=True) for section in (*details, words)]
    return Report(status_line(strict), released, [*front, *folded])


def _asking(title: str, question: str, blocks: list[Any]) -> ReportSection:
    return ReportSection(title, [Paragraph([question], "question"), *blocks])


def _shipped(decision: Quote) -> bool:
    return is_shipped(decision["policy"].value, decision["policy_sha256"].value)


def _stated(decision: Quote) -> str | None:
    """The verdict of a decision that passed, exactly as it says it; None where it says no such."""
    verdict, passed = decision["verdict"].value, decision["gates"]["pass_all"].value is True
    return verdict if passed and verdict in (RELEASED, AS_BROUGHT) else None


def status_line(strict: Quote) -> Inline:
    """First line of the report: released or not, and by how many gates."""
    if not strict.exists:
        return ["NOT RELEASED: the strict gate has not been evaluated"]
    gates = strict["gates"]
    failed, count = gates.by("failed_count"), gates.by("gate_count")
    if not _shipped(strict):
        lead = f"NOT RELEASED: decided by {CHANGED}, not by strict as it ships; it failed "
        return [lead, failed, " of ", count, " gates"]
    if gates["pass_all"].value is not True:
        return ["NOT RELEASED: strict gate failed (", failed, " of ", count, " gates)"]
    if _stated(strict) is None:
        return ["NOT RELEASED: the decision passed but states no verdict; husai gate decides again"]
    return [f"{_stated(strict)}: strict gate passed (", count, " of ", count, " gates)"]


def _decision(source: EvidenceFolder) -> list[Any]:
    strict = source.open(STRICT)
    if not strict.exists:
        return [missing(STRICT)]
    out: list[Any] = [Paragraph(_candidate_line(strict["candidate"]))]
    told: Inline = [
        "Failing: ",
        strict["gates"].by("failed_names"),
        ". No external claim may be promoted from this run.",
    ]
    if not _shipped(strict):
        told = [f"Decided by {CHANGED}: husai claim refuses it."]
    elif _stated(strict):
        told = [
            "Every gate passed on this one candidate. A claim may be promoted with `husai claim`."
        ]
    out.append(Paragraph(told))
    if strict["not_excluded"].value:
        sentences = [part for text in strict["not_excluded"] for part in (text, " ")]
        out.append(Paragraph(["What cannot be excluded: ", *sentences[:-1]]))
    return [*out, *_confirmation(strict["confirmation"]), *_policy(source, STRICT)]


def _confirmation(confirmation: Quote) -> list[Any]:
    """How often this candidate, and others on its data, were confirmed."""
    out: list[Any] = []
    attempts = confirmation["attempts"]
    if confirmation["forced"].value:
        lead = "**Forced confirmation:** this candidate was confirmed "
        out.append(Paragraph([lead, attempts, " times; one counts."]))
    elif attempts.exists:
        out.append(Paragraph(["Confirmation attempts on this candidate: ", attempts, "."]))
    if confirmation["order"].exists:
        parts: Inline = [
            "Test ",
            confirmation["order"],
            " on this confirmation data; candidates confirmed on it so far: ",
            confirmation["candidates"],
            "; bounds are judged at the one-sided level ",
            confirmation["alpha"],
            ".",
        ]
        out.append(Paragraph(parts))
    return out


def _candidate_line(candidate: Quote) -> Inline:
    if isinstance(candidate.value, dict):
        plain = [ref for _, ref in candidate.items() if not isinstance(ref.value, (dict, list))]
        told = [
            part for ref in plain if ref.value is not None for part in (", ", ref.name(), " ", ref)
        ]
        return ["Candidate", *([" ", *told[1:]] if told else []), "."]
    return ["Candidate ", candidate, "."] if candidate.value else ["No candidate was selected."]


def _policy(source: EvidenceFolder, file: str) -> list[Any]:
    decision = source.open(file)
    if not decision.exists:
        return [missing(file)]
    gates, *conditions = decision_tables(decision)
    out: list[Any] = [gates]
    if conditions:
        out += [Paragraph(["Every condition of these gates:"]), *conditions]
    return [*out, *_feasibility(decision)]


def _feasibility(decision: Quote) -> list[Any]:
    unattainable, findings = decision["unattainable"], decision["feasibility"]
    if not unattainable.exists:
        return []
    if not unattainable.value:
        text = (
            "Of what was measured, no threshold lies beyond what this design can reach or these "
            "seeds can resolve."
        )
        return [Paragraph([text])]
    items: list[Inline] = [
        [f["gate"], ", ", f["condition"], ": ", f["reason"]]
        for f in findings
        if f["blocking"].value
    ]
    lead = ["Gates whose threshold this design cannot reach or these seeds cannot resolve:"]
    return [Paragraph(lead), Bullets(items or [[ref] for ref in unattainable])]


def _failures(source: EvidenceFolder) -> list[Any]:
    items: list[Inline] = []
    for file in (STRICT, CYCLE3):
        decision = source.open(file)
        if not decision.exists:
            items.append([f"`{file}` is missing: nothing was decided."])
            continue
        policy = decision["policy"]
        who = policy if isinstance(policy.value, str) else file.split("/")[-2]
        for name in _failing(decision):
            gate, reason = decision["gates"][name], decision["reasons"][name]
            why = reason if reason.value else "failed; the decision gives no reason"
            items += [[who, ", ", gate.name(), ": ", why]] if gate.exists else []
    for name, _ in STAGES.values():
        file = f"results/{name}.json"
        items += [[f"`{file}`: ", ref] for ref in source.open(file)["negatives"]]
    return [Bullets(items)] if items else [Paragraph(["Nothing failed."])]


def _failing(decision: Quote) -> list[str]:
    """Failed gates that count: as the decision lists them, else every gate that is not true."""
    gates, failing = decision["gates"].value or {}, decision["failing"].value
    if isinstance(failing, list):
        return failing
    return [name for name in gate_names(gates) if gates[name] is not True]


def _subjects(source: EvidenceFolder) -> list[Any]:
    files = source.glob("results/subjects/*/model/metrics.json")
    if not files:
        return [missing("results/subjects/*/model/metrics.json")]
    return [compare_table([source.open(file) for file in files])]


def _provenance(source: EvidenceFolder) -> list[Any]:
    made = source.open(STRICT)["provenance"]
    out: list[Any] = []
    if made.exists:
        keys = ("time", "git_commit", "code_hash", "config_hash", "command", "seeds")
        machine = [*made["versions"].items(), *made["hardware"].items()]
        found = [*(made[key] for key in keys if made[key].exists), *(ref for _, ref in machine)]
        out.append(Table([["strict gate"], ["value"]], [[[ref.name()], [ref]] for ref in found]))
    text = (
        "Every number above is listed in `numbers.json` with its file, JSON pointer and unrounded "
        "value; the files lie in `evidence/` with `SHA256SUMS` and `ro-crate-metadata.json`. "
        "`husai verify` checks all of it, from this folder alone."
    )
    return [*out, Paragraph([text]), Paragraph([RUNS])]
