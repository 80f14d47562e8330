"""CE-Bench pairs, their store, the jobs and the evidence: on real probing texts, story fixtures,
and a subject of known activations.
"""

import json
import sys
import types

import numpy as np
import pytest
import torch

from husai import provenance
from husai.cebench.bound import score_bound
from husai.cebench.evidence import (
    delta_table,
    pair_delta,
    recipe_metrics,
    score_fields,
    with_baseline,
)
from husai.cebench.pairs import Pair, embedded_pairs, file_pairs, hub_pairs, pairs_hash, split_pairs
from husai.cebench.scores import score_saes
from husai.cebench.store import load_pairs, save_pairs
from husai.errors import HusaiError
from husai.evidence import Metric
from husai.jobs.cebench import cebench_jobs
from husai.jobs.confirmation import cebench_evidence
from husai.jobs.pair_activations import pair_activations_job
from husai.planning.specs import CEBenchSpec, PairsSpec, read_spec
from husai.probing import datasets, splits
from husai.sae import save_sae
from husai.sae.architectures import SAE

NAMES = ["87_glue_cola", "90_glue_qnli", "144_cancer_cat_Colon_Cancer"]


def make_sae(d=6, d_sae=32, k=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(d_sae, d, generator=g)
    W /= W.norm(dim=1, keepdim=True)
    return SAE("topk", W.T.contiguous(), W, torch.zeros(d_sae), torch.zeros(d), k=k)


def stories(n, prefix=""):
    return [
        Pair(
            f"{prefix}theme{i % 3}",
            f"{prefix}family{i % 3}",
            f"{prefix}a {i} {'x ' * i}",
            f"b {i}",
            (i, i),
        )
        for i in range(n)
    ]


def store(path, n=6, d=6, seed=0):
    """A pairs file with random activations: selection and confirmation pairs of 1 to 5 tokens a
    story.
    """
    g = torch.Generator().manual_seed(seed)
    pairs = {"selection": stories(n), "confirmation": stories(4, "c-")}
    counts = torch.randint(1, 6, (2 * (n + 4),), generator=g)
    tokens = torch.randn(int(counts.sum()), d, generator=g)
    save_pairs(path, tokens, counts, pairs, "language", "blocks.1.hook_resid_post")
    return tokens, counts, pairs


def test_embedded_pairs_come_from_opposite_classes_of_test_rows():
    pairs = embedded_pairs(12, 0, names=NAMES)
    assert len(pairs) == 12
    seen = set()
    for pair in pairs:
        data = datasets.load_dataset(pair.theme)
        train = set(splits.probe_train_rows(data.y).tolist())
        train_texts = {datasets.row_hash(data.prompts[i]) for i in train}
        a, b = pair.rows
        assert (data.y[a], data.y[b]) == (1, 0)
        assert (data.prompts[a], data.prompts[b]) == (pair.story_a, pair.story_b)
        assert pair.family == datasets.family(pair.theme)
        for text in (pair.story_a, pair.story_b):
            assert datasets.row_hash(text) not in train_texts
            assert datasets.row_hash(text) not in seen
            seen.add(datasets.row_hash(text))


def test_a_data_set_gives_the_same_pairs_whatever_the_others():
    together = [p for p in embedded_pairs(9, 0, names=NAMES) if p.theme == NAMES[0]]
    assert len(together) >= 3
    assert together == embedded_pairs(len(together), 0, names=NAMES[:1])
    assert together != embedded_pairs(len(together), 1, names=NAMES[:1])


def test_a_data_set_short_of_rows_leaves_its_turn_to_the_others():
    pairs = embedded_pairs(20, 0, names=NAMES)
    short = sum(p.theme == "144_cancer_cat_Colon_Cancer" for p in pairs)
    assert len(pairs) == 20 and 1 <= short < 7
    with pytest.raises(
        HusaiError, match="50 pairs were asked for but the test rows of 1 data sets give"
    ):
        embedded_pairs(50, 0, names=["144_cancer_cat_Colon_Cancer"])


def test_splits_share_no_family():
    a, b = datasets.split(NAMES)
    spec = {"source": "embedded", "n_pairs": 3, "selection": a, "confirmation": b or None}
    chosen = {p.family for p in split_pairs(spec, "selection")}
    assert chosen <= {datasets.family(n) for n in a}
    with pytest.raises(HusaiError, match="split 'test'"):
        split_pairs(spec, "test")


def fake_hub(monkeypatch, rows):
    def load_dataset(name, split):
        if rows is None:
            raise ConnectionError("no route to host")
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


ROWS = [
    {"story1": f"one {i}", "story2": f"two {i}", "subject_title": f"subject {i % 8}"}
    for i in range(32)
]


def test_stories_of_the_hub_and_of_a_file_are_the_same(monkeypatch, tmp_path):
    fake_hub(monkeypatch, ROWS)
    path = tmp_path / "stories.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    from_hub = hub_pairs("GulkoA/contrastive-stories-v4", 5)
    assert [p.story_a for p in from_hub] == ["one 0", "one 1", "one 2", "one 3", "one 4"]
    assert from_hub == file_pairs(path, 5)
    spec = {"source": "hub", "hub_version": str(path), "n_pairs": 4}
    halves = [
        {p.theme for p in split_pairs(spec, split)} for split in ("selection", "confirmation")
    ]
    assert not halves[0] & halves[1]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "GulkoA/contrastive-stories-v4",
            None,
            "could not be read from the hub .*jsonl file.*embedded",
        ),
        ("GulkoA/contrastive-stories-v9", ROWS, "did you mean 'GulkoA/contrastive-stories-v"),
        (
            "GulkoA/contrastive-stories-v1",
            [{"story1": "a"}],
            "row 0 needs the texts story1, story2 and a subject_title",
        ),
        ("GulkoA/contrastive-stories-v1", ROWS[:2], "has 2 pairs in half any, 5 were asked for"),
    ],
)
def test_unusable_stories_are_one_clear_line(monkeypatch, name, rows, message):
    fake_hub(monkeypatch, rows)
    with pytest.raises(HusaiError, match=message):
        hub_pairs(name, 5)


def test_unreadable_story_file(tmp_path):
    (tmp_path / "s.jsonl").write_text("{broken")
    with pytest.raises(HusaiError, match="one JSON object per line"):
        file_pairs(tmp_path / "s.jsonl", 1)


def test_store_gives_back_each_split(tmp_path):
    path = tmp_path / "blocks.1.hook_resid_post.safetensors"
    tokens, counts, pairs = store(path)
    selection, confirmation = (
        load_pairs(path),
        load_pairs(tmp_path, "confirmation", "blocks.1.hook_resid_post"),
    )
    edge = int(counts[:12].sum())
    torch.testing.assert_close(selection.tokens[0:edge], tokens[:edge])
    torch.testing.assert_close(confirmation.tokens[0 : confirmation.tokens.shape[0]], tokens[edge:])
    assert selection.counts.flatten().tolist() == counts[:12].tolist()
    assert confirmation.themes == [p.theme for p in pairs["confirmation"]]
    assert confirmation.families == [p.family for p in pairs["confirmation"]]
    assert selection.pairs_hash == pairs_hash(pairs["selection"]) != confirmation.pairs_hash
    whole = selection._replace(tokens=tokens[:edge])
    scores = [
        score_saes([make_sae()], p)[0].per_pair["interpretability_fixed"]
        for p in (selection, whole)
    ]
    np.testing.assert_array_equal(*scores)


def test_store_errors_name_the_file(tmp_path):
    path = tmp_path / "h.safetensors"
    pairs = {"selection": stories(2), "confirmation": []}
    with pytest.raises(HusaiError, match="do not fit 4 stories"):
        save_pairs(
            path, torch.zeros(3, 2), torch.ones(3, dtype=torch.int64), pairs, "language", "h"
        )
    with pytest.raises(HusaiError, match="not finite"):
        save_pairs(
            path,
            torch.full((4, 2), torch.inf),
            torch.ones(4, dtype=torch.int64),
            pairs,
            "language",
            "h",
        )
    with pytest.raises(HusaiError, match="it has none"):
        load_pairs(tmp_path, hook_name="h")
    with pytest.raises(HusaiError, match="no such file"):
        load_pairs(path)
    store(path)
    with pytest.raises(HusaiError, match="no pair activations at hook 'g'; it has h"):
        load_pairs(tmp_path, hook_name="g")
    with pytest.raises(HusaiError, match="no split 'test'"):
        load_pairs(path, "test")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(HusaiError, match="damaged"):
        load_pairs(path)


class WordSubject:
    """A subject whose activation at a token is a fixed random vector of the word: known without a
    model.
    """

    name, hooks, d_model = "language", ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"), 6

    def check_hooks(self, names):
        for name in names:
            if name not in self.hooks:
                raise HusaiError(f"subject 'language': no hook '{name}'")
        return list(names)

    def activations(
        self, inputs, hook_names, positions="all", batch_size=64, max_tokens=None, progress=None
    ):
        assert positions == "all"
        table = torch.randn(4096, self.d_model, generator=torch.Generator().manual_seed(0))
        ids = [
            [int(provenance.hash_json(w)[:8], 16) % 4096 for w in text.split()[-max_tokens:]]
            for text in inputs
        ]
        return {h: [table[words] + i for words in ids] for i, h in enumerate(hook_names)}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a subject, its pair activations, and two seeds of a recipe and of its frozen
    control.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "husai.subjects.load_subject", lambda model_dir, device: WordSubject(), raising=False
    )
    model = tmp_path / "results/subjects/language/model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (tmp_path / "stories.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    spec = {
        "source": "hub",
        "hub_version": str(tmp_path / "stories.jsonl"),
        "n_pairs": 8,
        "max_tokens": 4,
    }
    pair_activations_job(
        PairsSpec(**spec, hooks=list(WordSubject.hooks)),
        model,
        "results/subjects/language/pairs/manifest.json",
        device="cpu",
    )
    for i, recipe in enumerate(("topk-d32-k3", "topk-d32-k3-frozen")):
        for seed in (0, 1):
            folder = tmp_path / f"results/saes/language/{recipe}/seed{seed}"
            save_sae(make_sae(seed=10 * i + seed), folder)
        fields = {"subject": "language", "hook_name": "blocks.1.hook_resid_post"}
        provenance.write_json(
            folder.parent / "recipe.json",
            {"recipe": fields, "resolved": fields, "hash": f"hash{i}", "id": recipe, "d_in": 6},
        )
    return spec


def run(spec, recipe, seed):
    out = f"results/external/{recipe}/seed{seed}/cebench.json"
    cebench_jobs(
        CEBenchSpec(**spec),
        [(f"results/saes/language/{recipe}/seed{seed}", out)],
        "results/subjects/language/pairs/manifest.json",
        device="cpu",
    )
    return provenance.read_json(out)


def test_pair_activations_job_writes_every_hook_with_a_manifest(workplace):
    manifest = provenance.read_json("results/subjects/language/pairs/manifest.json")
    assert [r["path"] for r in manifest["outputs"]] == [
        f"{h}.safetensors" for h in WordSubject.hooks
    ] + ["pairs.json"]
    listing = provenance.read_json("results/subjects/language/pairs/pairs.json")
    assert len(listing["selection"]) == len(listing["confirmation"]) == 8
    spec = PairsSpec(**workplace, hooks=["blocks.7"])
    with pytest.raises(HusaiError, match=r"no hook 'blocks.7'"):
        pair_activations_job(spec, "results/subjects/language/model", "p/manifest.json")
    with pytest.raises(HusaiError, match="--spec: hooks: missing"):
        read_spec(PairsSpec, workplace)


def test_cebench_job_writes_a_complete_record(workplace):
    record = run(workplace, "topk-d32-k3", 1)
    assert (record["kind"], record["recipe"], record["recipe_hash"], record["seed"]) == (
        "cebench",
        "topk-d32-k3",
        "hash0",
        1,
    )
    assert record["hook_name"] == "blocks.1.hook_resid_post"
    metrics = {name: m["value"] for name, m in record["metrics"].items()}
    assert metrics["bound"] == record["bound"] == score_bound(32)
    for name in (
        "interpretability_published",
        "interpretability_fixed",
        "contrastive_published",
        "independence_fixed",
    ):
        assert metrics[name] == pytest.approx(np.mean(record["per_pair"][name]))
        assert metrics[f"{name}_fraction"] == pytest.approx(metrics[name] / record["bound"])
        assert record["metrics"][name]["lcb"] is None
    themes = record["per_theme"]["interpretability_fixed"]
    assert list(themes) == list(dict.fromkeys(record["themes"]))
    manifest = provenance.read_json("results/external/topk-d32-k3/seed1/cebench.manifest.json")
    assert [r["path"] for r in manifest["outputs"]] == ["cebench.json"]


def test_the_frozen_control_gives_paired_deltas_under_new_and_old_names(workplace):
    frozen = run(workplace, "topk-d32-k3-frozen", 0)
    record = with_baseline(run(workplace, "topk-d32-k3", 0), frozen)
    raw = "interpretability_published"
    assert record["delta_vs_matched_baseline"]["interpretability_score_mean_max"] == pytest.approx(
        record["metrics"][raw]["value"] - frozen["metrics"][raw]["value"]
    )
    fraction = "interpretability_fixed_fraction"
    assert record["metrics"]["delta_vs_frozen"].value == pytest.approx(
        record["metrics"][fraction]["value"] - frozen["metrics"][fraction]["value"]
    )
    assert record["baseline"]["mismatch"] is None


def test_recipe_evidence_has_an_interval_and_covers_its_value(workplace):
    paths = {}
    for recipe in ("topk-d32-k3", "topk-d32-k3-frozen"):
        paths[recipe] = [f"results/external/{recipe}/seed{s}/cebench.json" for s in (0, 1)]
        for seed in (0, 1):
            run(workplace, recipe, seed)
    spec = CEBenchSpec(**workplace)
    record = cebench_evidence(spec, paths["topk-d32-k3"], paths["topk-d32-k3-frozen"])
    delta = record["metrics"]["delta_vs_frozen"]
    assert delta.lcb <= delta.value <= delta.ucb
    assert record["recipe_hash"] == "hash0" and record["provenance"]["seeds"] == [0, 1]
    assert {"bound", "interpretability_published", "interpretability_fixed"} <= set(
        record["metrics"]
    )
    with pytest.raises(HusaiError, match="hold 2 recipes"):
        cebench_evidence(spec, [p for both in paths.values() for p in both], [])


def synthetic_record(values, seed, d_sae=32, l0=3.0, themes=("a", "a", "b", "c"), digest="p"):
    per_pair = {"interpretability_fixed": list(values), "interpretability_published": list(values)}
    return {
        "seed": seed,
        "recipe": "r",
        "d_sae": d_sae,
        "l0": l0,
        "bound": 2.0,
        "per_pair": per_pair,
        "pairs_hash": digest,
        "themes": list(themes),
        "families": ["f", "f", "f", "g"],
        "metrics": {},
    }


def test_delta_table_pairs_equal_seeds_and_averages_pairs_of_a_theme():
    records = [synthetic_record([1, 3, 1, 1], 0), synthetic_record([2, 2, 2, 2], 7)]
    frozen = [synthetic_record([0, 0, 1, 1], 0), synthetic_record([2, 2, 1, 1], 1)]
    table, families = delta_table(records, frozen)
    assert families == ["f", "f", "g"]
    np.testing.assert_allclose(table, [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]])


def test_one_seed_gives_no_interval_over_seeds():
    metrics = recipe_metrics([synthetic_record([1, 3, 1, 1], 0) | {"metrics": {"l0": Metric(3.0)}}])
    assert metrics["l0"].lcb == -np.inf


def test_an_unmatched_control_gives_no_delta_and_says_why():
    record = synthetic_record([1, 1, 1, 1], 0)
    metrics = recipe_metrics([record], [synthetic_record([0, 0, 0, 0], 0, l0=9.0)])
    assert metrics["delta_vs_frozen"].value is None
    assert "L0 9.00 against 3.00" in metrics["delta_vs_frozen"].method
    assert (
        "width 64 against 32"
        in recipe_metrics([record], [synthetic_record([0] * 4, 0, d_sae=64)])[
            "delta_vs_frozen"
        ].method
    )


def test_scores_on_different_pairs_are_never_compared():
    with pytest.raises(HusaiError, match="only on the same pairs"):
        pair_delta(synthetic_record([1] * 4, 0), synthetic_record([1] * 4, 0, digest="q"))


def test_baseline_without_match_keeps_the_old_names(tmp_path):
    store(tmp_path / "h.safetensors")
    pairs = load_pairs(tmp_path / "h.safetensors")
    wide, narrow = score_saes([make_sae(), make_sae(d_sae=16)], pairs)
    about = {"recipe": "r", "recipe_hash": "h", "seed": 0}
    record = with_baseline(
        {**about, **score_fields(narrow, pairs)}, {**about, **score_fields(wide, pairs)}
    )
    assert record["metrics"]["delta_vs_frozen"].value is None
    assert "width" in record["baseline"]["mismatch"]
    assert "interpretability_score_mean_max" in record["delta_vs_matched_baseline"]


def test_saes_of_other_widths_or_hooks_are_refused(workplace, tmp_path):
    save_sae(make_sae(d=5), tmp_path / "other")
    pairs = "results/subjects/language/pairs"
    with pytest.raises(HusaiError, match="reads 5 dimensions but the pair activations have 6"):
        spec = CEBenchSpec(hook_name="blocks.1.hook_resid_post")
        cebench_jobs(spec, [(tmp_path / "other", "x.json")], pairs, device="cpu")
    with pytest.raises(HusaiError, match="no pair activations at hook 'nowhere'"):
        spec = CEBenchSpec(hook_name="nowhere")
        cebench_jobs(spec, [(tmp_path / "other", "x.json")], pairs, device="cpu")
