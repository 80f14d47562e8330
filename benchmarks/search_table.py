"""What a search for recipes found, as the tables of docs/stability.md: one row per recipe from
``results/external/frontier.json``, with 95% intervals over its seeds, and over data sets where
there are any.

    make search
    python benchmarks/search_table.py .search/results/external/frontier.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from husai.evidence import read_metric
from husai.gate import load_policy
from husai.provenance import read_json
from husai.selection.margins import margins

TABLES = {
    "Reproducibility and reconstruction": {
        "EV": "stability.explained_variance",
        "S": "stability.S",
        "shared": "stability.shared_fraction",
        "agreement": "stability.activation_agreement",
        "recovered": "faithfulness.recovered",
    },
    "Usefulness": {
        "vs frozen": "saebench.delta_vs_frozen",
        "vs neurons": "saebench.delta_vs_neurons",
        "vs PCA": "saebench.delta_vs_pca",
        "vs dense": "saebench.delta_vs_dense",
        "CE-Bench vs frozen": "cebench.delta_vs_frozen",
    },
}


def shown(value: dict | None) -> str:
    """A metric with its interval, to three digits."""
    if value is None:
        return "-"
    metric = read_metric(value)
    if metric.value is None:
        return "-"
    bounds = "" if metric.lcb is None else f" [{metric.lcb:.3f}, {metric.ucb:.3f}]"
    return f"{metric.value:.3f}{bounds}"


def rows(frontier: dict) -> dict[str, dict]:
    """Gated metrics of each recipe."""
    return {r["condition_id"].rsplit("_seed", 1)[0]: r["gated"] for r in frontier["records"]}


def print_table(title: str, columns: dict[str, str], found: dict[str, dict]) -> None:
    """One Markdown table."""
    print(f"\n## {title}\n\n| recipe | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, gated in found.items():
        print(f"| {name} | {' | '.join(shown(gated.get(key)) for key in columns.values())} |")


def print_margins(found: dict[str, dict]) -> None:
    """The conditions of the strict policy that a recipe misses on the selection's data, but for the
    plateau: a search trains briefly.
    """
    asked = load_policy("strict").all_conditions()
    conditions = [c for c in asked if c.metric != "plateau_gain"]
    print(
        "\n## Smallest margin to a gate, in the selector's units\n\n| recipe | smallest | misses |"
    )
    print("|---|---|---|")
    ranked = {name: margins(gated, conditions) for name, gated in found.items()}
    for name, each in sorted(ranked.items(), key=lambda item: -min(m.scaled for m in item[1])):
        missed = ", ".join(f"{m.condition} by {-m.margin:.3f}" for m in each if m.margin < 0)
        print(f"| {name} | {min(m.scaled for m in each):+.2f} | {missed or 'none'} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("frontier", type=Path, help="results/external/frontier.json of a search")
    found = rows(read_json(parser.parse_args().frontier))
    for title, columns in TABLES.items():
        print_table(title, columns, found)
    print_margins(found)


if __name__ == "__main__":
    main()
