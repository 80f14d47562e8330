"""What the gate report says, section by section; every number is a cursor into the evidence."""

from __future__ import annotations

from typing import Any

from husai.gate.policy import CHANGED, is_shipped
from husai.gate.verdict import AS_BROUGHT, RELEASED
from husai.report.document import (
    Bullets,
    Document,
    Inline,
    Paragraph,
    Section,
    Table,
)
from husai.report.front.candidates import candidates_section
from husai.report.front.verdict import verdict_section
from husai.report.front.words import words_section
from husai.report.gates import decision_tables
from husai.report.quotes import Quote, Source, gate_names
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
    "Baseline": (
        "results/baseline/summary.json",
        "Is a trained SAE more reproducible than chance?",
    ),
    "Ablations": ("results/ablations/summary.json", "How do width and sparsity change it?"),
    "Calibration": (
        "results/calibration/summary.json",
        "Which sparsity is the most reproducible one that still reconstructs?",
    ),
    "Consistency": (
        "results/consistency/summary.json",
        "Does training towards agreement help, reference pairs left out?",
    ),
    "Frontier": (
        "results/external/frontier.json",
        "Which architecture does best on external benchmarks at one L0?",
    ),
    "Scaling": (
        "results/external/scaling.json",
        "What do more tokens, other layers and more latents change?",
    ),
}
RUNS = "Runs, with command, commit, seeds and outcome: `experiment_log.md`. Stages: `dag.svg`."
RECORDS = {
    "Selection": ("results/selection/**/*.json", "results/selection/selected_candidate.json"),
    "Confirmation": ("results/confirmation/*.json", "results/confirmation/stability.json"),
    "Stress": ("results/stress/*.json", "results/stress/ood.json"),
}


def build(source: Source) -> Document:
    """The whole report from the evidence below ``source.root``."""
    strict = source.open(STRICT)
    released = _shipped(strict) and _stated(strict) is not None
    details = [
        Section("Decision", _decision(source)),
        Section("Negative results", _failures(source)),
        Section("Original policy (cycle3)", _policy(source, CYCLE3)),
        Section(
            "Self-test",
            [_question("Does the gate say no when it should?"), *selftest_blocks(source)],
        ),
        Section("Subjects", _subjects(source)),
        *(
            Section(title, [_question(asked), *summary_blocks(source, file)])
            for title, (file, asked) in STAGES.items()
        ),
        *(Section(title, records_blocks(source, *where)) for title, where in RECORDS.items()),
        Section("Passports of latents", _passports(source)),
        Section("Provenance", _provenance(source)),
    ]
    sections = [
        verdict_section(strict),
        candidates_section(source),
        *(section._replace(folded=True) for section in details),
    ]
    words = words_section(sections)._replace(folded=True)
    return Document(status_line(strict), released, [*sections, words])


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
    if not _shipped(strict):
        return [
            f"NOT RELEASED: decided by {CHANGED}, not by strict as it ships; it failed ",
            gates.by("failed_count"),
            " of ",
            gates.by("gate_count"),
            " gates",
        ]
    passed = gates["pass_all"].value is True
    if passed and _stated(strict) is None:
        return ["NOT RELEASED: the decision passed but states no verdict; husai gate decides again"]
    return [
        f"{_stated(strict)}: strict gate passed ("
        if passed
        else "NOT RELEASED: strict gate failed (",
        gates.by("gate_count" if passed else "failed_count"),
        " of ",
        gates.by("gate_count"),
        " gates)",
    ]


def _passports(source: Source) -> list[Any]:
    asked = _question("Which single latents come back in fresh seeds?")
    return [asked, *passport_blocks(source)]


def _question(text: str) -> Paragraph:
    return Paragraph([text], "question")


def _decision(source: Source) -> list[Any]:
    strict = source.open(STRICT)
    if not strict.exists:
        return [missing(STRICT)]
    out: list[Any] = [Paragraph(_candidate_line(strict["candidate"]))]
    gates = strict["gates"]
    if not _shipped(strict):
        out.append(Paragraph([f"Decided by {CHANGED}: husai claim refuses it."]))
    elif _stated(strict):
        text = (
            "Every gate passed on this one candidate. A claim may be promoted with `husai claim`."
        )
        out.append(Paragraph([text]))
    else:
        out.append(
            Paragraph(
                [
                    "Failing: ",
                    gates.by("failed_names"),
                    ". No external claim may be promoted from this run.",
                ]
            )
        )
    texts = strict["not_excluded"]
    if texts.value:
        out.append(Paragraph(["What cannot be excluded: ", *_joined(texts)]))
    return [*out, *_confirmation(strict["confirmation"]), *_policy(source, STRICT)]


def _joined(texts: Quote) -> list[Any]:
    """Sentences of a decision, one after the other."""
    return [part for i in range(len(texts.value)) for part in (texts[i], " ")][:-1]


def _confirmation(confirmation: Quote) -> list[Any]:
    """How often this candidate, and others on its data, were confirmed."""
    out: list[Any] = []
    if confirmation["forced"].value:
        out.append(
            Paragraph(
                [
                    "**Forced confirmation:** this candidate was confirmed ",
                    confirmation["attempts"],
                    " times; one counts.",
                ]
            )
        )
    elif confirmation["attempts"].exists:
        out.append(
            Paragraph(["Confirmation attempts on this candidate: ", confirmation["attempts"], "."])
        )
    if confirmation["order"].exists:
        parts: Inline = [
            "Test ",
            confirmation["order"],
            " on this confirmation data; candidates confirmed on it so far: ",
        ]
        parts += [
            confirmation["candidates"],
            "; bounds are judged at the one-sided level ",
            confirmation["alpha"],
            ".",
        ]
        out.append(Paragraph(parts))
    return out


def _candidate_line(candidate: Quote) -> Inline:
    if isinstance(candidate.value, dict):
        out: Inline = ["Candidate"]
        for _key, ref in candidate.items():
            if ref.value is not None and not isinstance(ref.value, (dict, list)):
                out += [", " if len(out) > 1 else " ", ref.name(), " ", ref]
        return [*out, "."]
    return ["Candidate ", candidate, "."] if candidate.value else ["No candidate was selected."]


def _policy(source: Source, file: str) -> list[Any]:
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
        return [
            Paragraph(
                [
                    "Of what was measured, no threshold lies beyond what this design can reach or "
                    "these seeds can resolve."
                ]
            )
        ]
    items: list[Inline] = [
        [f["gate"], ", ", f["condition"], ": ", f["reason"]]
        for f in findings
        if f["blocking"].value
    ]
    lead = ["Gates whose threshold this design cannot reach or these seeds cannot resolve:"]
    return [Paragraph(lead), Bullets(items or [[ref] for ref in unattainable])]


def _failures(source: Source) -> list[Any]:
    items: list[Inline] = []
    for file in (STRICT, CYCLE3):
        decision = source.open(file)
        if not decision.exists:
            items.append([f"`{file}` is missing: nothing was decided."])
            continue
        policy = decision["policy"]
        for name in _failing(decision):
            gate, reason = decision["gates"][name], decision["reasons"][name]
            if gate.exists:
                start: Inline = [
                    policy if isinstance(policy.value, str) else file.split("/")[-2],
                    ", ",
                    gate.name(),
                    ": ",
                ]
                items.append(
                    [
                        *start,
                        reason if reason.value else "failed; the decision gives no reason",
                    ]
                )
    for file, _ in STAGES.values():
        items += [[f"`{file}`: ", ref] for ref in source.open(file)["negatives"]]
    return [Bullets(items)] if items else [Paragraph(["Nothing failed."])]


def _failing(decision: Quote) -> list[str]:
    """Failed gates that count: as the decision lists them, else every gate that is not true."""
    gates = decision["gates"].value or {}
    return (
        decision["failing"].value
        if isinstance(decision["failing"].value, list)
        else [n for n in gate_names(gates) if gates[n] is not True]
    )


def _subjects(source: Source) -> list[Any]:
    files = source.glob("results/subjects/*/model/metrics.json")
    if not files:
        return [missing("results/subjects/*/model/metrics.json")]
    return [compare_table([source.open(file) for file in files])]


def _provenance(source: Source) -> list[Any]:
    made = source.open(STRICT)["provenance"]
    out: list[Any] = []
    if made.exists:
        keys = [
            k
            for k in ("time", "git_commit", "code_hash", "config_hash", "command", "seeds")
            if made[k].exists
        ]
        rows = [[[made[k].name()], [made[k]]] for k in keys]
        rows += [
            [[ref.name()], [ref]]
            for _, ref in [*made["versions"].items(), *made["hardware"].items()]
        ]
        out.append(Table([["strict gate"], ["value"]], rows))
    text = (
        "Every number above is listed in `numbers.json` with its file, JSON pointer and unrounded "
        "value; the files lie in "
        "`evidence/` with `SHA256SUMS` and `ro-crate-metadata.json`. `husai verify` checks all of "
        "it, from this folder alone."
    )
    return [
        *out,
        Paragraph([text]),
        Paragraph([RUNS]),
    ]
