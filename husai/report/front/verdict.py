"""The verdict for a reader who is no statistician: one sentence, and for every gate a question, its
answer, how clear the answer is, and what would have to change.
"""

from __future__ import annotations

from typing import NamedTuple

from husai.gate.decision import COMPARE, UNIT_AT_ZERO, Row
from husai.gate.policy import CHANGED, is_shipped
from husai.report.document import Inline, Paragraph, ReportSection, Table
from husai.report.front.words import meaning, question
from husai.report.quotes import Quote, gate_names

BASIS = {"point": "", "lcb": " (lower bound)", "ucb": " (upper bound)"}
REACH = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}
SCALE = (
    "Margin: how far the measured value, taken at the unfavourable end of its uncertainty, lies on "
    f"the passing side of the threshold, in units of the threshold itself (of `{UNIT_AT_ZERO}` where "
    "the threshold is `0`). A margin of `0` is exactly at the threshold, a negative one fails. The "
    "bar ends at `-1` and `+1`."
)


def verdict_section(strict: Quote) -> ReportSection:
    """The first section of the report."""
    if not strict.exists:
        return ReportSection("Verdict", [Paragraph(["Nothing was decided yet."], "verdict")])
    sentence, who = Paragraph(_sentence(strict), "verdict"), Paragraph(_who(strict["candidate"]))
    return ReportSection(
        "Verdict", [sentence, who, _questions(strict), Paragraph([SCALE], "small")]
    )


def _sentence(strict: Quote) -> Inline:
    gates = strict["gates"]
    count: Inline = [gates.by("gate_count"), " questions below"]
    if not is_shipped(strict["policy"].value, strict["policy_sha256"].value):
        return [f"The answers below are those of {CHANGED}; they release nothing."]
    if gates["pass_all"].value is True:
        lead = "These SAEs can be used as evidence about the model: each of the "
        return [lead, *count, " is answered yes."]
    return [
        "Do not use these SAEs as evidence about the model: ",
        gates.by("failed_count"),
        " of the ",
        *count,
        " are answered no. That is a result, not an error of the run.",
    ]


def _who(candidate: Quote) -> Inline:
    names = ("condition", "recipe", "recipe_hash")
    name = next((candidate[n] for n in names if isinstance(candidate[n].value, str)), None)
    hook = candidate["hook_name"]
    at: Inline = [", trained at ", hook] if isinstance(hook.value, str) else []
    return ["What was judged: ", name, *at, "."] if name else ["No candidate was selected."]


class Answer(NamedTuple):
    """What a gate said: its verdict, its failed rows, and the row with the narrowest margin."""

    gate: Quote
    passed: bool
    failed: list[Quote]
    telling: Quote | None


def answers(strict: Quote) -> list[Answer]:
    """What every gate of a decision said, in the policy's order."""
    found = []
    for gate in gate_names(strict["gates"].value or {}):
        judged = [row for row in strict["rows"] if row["gate"].value == gate]
        failed = [row for row in judged if row["passed"].value is not True]
        verdict = strict["gates"][gate]
        unmet = [row for row in failed if Row(**row.value).met is not True]
        telling = _narrowest(unmet if failed else judged)
        found.append(Answer(verdict, verdict.value is True, failed, telling))
    return found


def answer_lines(strict: Quote) -> list[str]:
    """One plain line per gate, for the terminal: answer, margin, question."""
    out = []
    for gate, passed, _, telling in answers(strict):
        margin = telling.by("margin").text if telling else ""
        name = gate.name().text
        out.append(f"{'yes' if passed else 'NO':3} {margin:>7}  {question(name)} ({name})")
    return out


def _questions(strict: Quote) -> Table:
    rows, bars, roles = [], [], []
    for gate, passed, failed, telling in answers(strict):
        name = gate.name()
        margin: Inline = [telling.by("margin")] if telling else ["–"]
        change = ["nothing"] if passed else _changes(failed, strict["reasons"][name.text])
        answer = "yes" if passed else "**no**"
        rows.append([[question(name.text), " (", name, ")"], [answer], margin, change])
        bars.append(bar(telling.by("margin").printed, passed) if telling else "")
        roles.append("pass" if passed else "fail")
    header: list[Inline] = [["question"], ["answer"], ["margin"], ["what would have to change"]]
    return Table(header, rows, tuple(bars), tuple(roles))


def _narrowest(rows: list[Quote]) -> Quote | None:
    """The row with the smallest margin. Counts that have to be 0 and are have no margin to speak of
    and are named only where nothing else is.
    """
    known = [(row, Row(**row.value).margin) for row in rows]
    measured = [(row, margin) for row, margin in known if margin is not None]
    telling = [pair for pair in measured if pair[1] != 0] or measured
    return min(telling, key=lambda pair: pair[1])[0] if telling else None


def _changes(failed: list[Quote], reason: Quote) -> Inline:
    """Each failed condition as: what, from where, to where. Conditions that are met, but on too few
    seeds, stand for each other: the first is named."""
    out: Inline = []
    few = False
    for row in failed:
        judged = Row(**row.value)
        if judged.met and few:
            continue
        out += ["; "] if out else []
        basis, operator, threshold = judged.required or ("", "", 0.0)
        name = row["condition"].value.removesuffix(f" {basis}")
        what = meaning(name) or name
        if judged.met is not False:
            few = few or judged.met is True
            own = row["reason"] if row["reason"].value else reason
            reads_on = str(own.value).startswith(("=", "is "))
            out += [f"{what}{BASIS.get(basis, '')}{'' if reads_on else ':'} ", own]
            continue
        verb = "rise" if operator.startswith(">") else "fall"
        asked: Inline = [f"{REACH[operator]} ", row.by("threshold")]
        if basis != "point" and COMPARE[operator](judged.value, threshold):
            out += [f"{what} is not shown to be ", *asked, ": measured ", row["value"]]
            out += [", but it may be ", row.by("bound")]
        else:
            out += [f"{what}{BASIS[basis]} has to {verb} from ", row.by("bound"), " to ", *asked]
    return out or [reason]


def bar(margin: float | None, passed: bool) -> str:
    """Small inline SVG of a margin on the scale from -1 to 1, the threshold in its middle."""
    if margin is None:
        return ""
    length = round(56 * min(abs(margin), 1.0), 1)
    start = 60 if margin >= 0 else round(60 - length, 1)
    colour = "var(--pass)" if passed else "var(--fail)"
    return (
        "<svg class='strip' viewBox='0 0 120 18' width='120' height='18' aria-hidden='true'>"
        "<rect x='60' y='2' width='56' height='14' fill='var(--pass)' opacity='.13'/>"
        f"<rect x='{start}' y='6' width='{length}' height='6' fill='{colour}'/>"
        "<line x1='60' x2='60' y1='1' y2='17' stroke='var(--ink)' stroke-width='1'/></svg>"
    )
