"""On which probing data sets a dense probe of a subject is better than chance: where the
selection's data sets and the confirmation's pool in config/config.yaml come from. It looks at the
subject alone, never at an SAE.

    python benchmarks/informative_sets.py results/subjects/language/model blocks.3.hook_resid_post

For each of the 113 data sets: the AUC of a logistic regression on mean-pooled activations over five
folds of its first rows, each row scored by the fit that did not see it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from husai.probing import datasets
from husai.probing.baselines import validate_dense
from husai.probing.splits import probe_train_rows
from husai.subjects import Subject, load_subject
from husai.subjects.probe_rows import kept_tokens

ROWS = 600
"""Rows read of each set; 500 of them are the balanced training rows of the probing protocol."""
MAX_TOKENS = 48
"""Of each row, as the embedded default reads them."""
C = 1.0
"""scikit-learn's default strength of the penalty."""


def pooled(subject: Subject, hook: str, prompts: list[str]) -> np.ndarray:
    """Mean activation of each row, ``(n, d)``."""
    ids = subject.encode(prompts, MAX_TOKENS)
    out = np.empty((len(ids), subject.width(hook)), np.float32)
    for rows, _, values in subject.passes(ids, [hook]):
        for row, value in zip(rows, values[hook].cpu().numpy(), strict=True):
            out[row] = value[kept_tokens(subject, ids[row], "mean")].mean(0)
    return out


def main() -> None:
    """Print a line for each data set, and the names that reach the threshold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="the subject's model folder")
    parser.add_argument("hook")
    parser.add_argument("--least", type=float, default=0.7, help="AUC (default %(default)s)")
    args = parser.parse_args()
    subject, good = load_subject(args.model, "cpu"), []
    for name in datasets.dataset_names():
        data = datasets.load_dataset(name, ROWS)
        rows = probe_train_rows(data.y)
        x, y = pooled(subject, args.hook, [data.prompts[i] for i in rows]), data.y[rows]
        order = np.random.default_rng(0).permutation(len(rows))
        found = validate_dense(x[order], y[order], C)
        print(f"{found.auc:.3f} {name}", flush=True)
        if found.auc >= args.least:
            good.append(name)
    print(f"{len(good)} of {args.least} or more: {', '.join(good)}")


if __name__ == "__main__":
    main()
