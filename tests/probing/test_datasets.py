"""The shipped probing data sets: names, labels, families, halves, OOD sets, and errors a user can
act on.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from husai.errors import HusaiError
from husai.probing import datasets
from husai.probing.splits import probe_train_rows


def test_the_113_binary_and_155_text_files_are_found():
    assert len(datasets.dataset_names()) == 113
    assert len(datasets.text_names()) == 155
    assert set(datasets.dataset_names()) < set(datasets.text_names())
    assert "87_glue_cola" in datasets.dataset_names()
    assert all(
        (datasets.data_root() / "cleaned_data" / f"{n}.csv.zst").is_file()
        for n in datasets.dataset_names()
    )


def test_sae_probes_is_read_without_being_imported():
    code = (
        "import sys; from husai.probing import datasets as d; d.load_dataset('87_glue_cola');"
        "print([m for m in ('sae_probes', 'torch', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_labels_follow_the_sorted_order_of_the_targets():
    cola = datasets.load_dataset("87_glue_cola")
    assert (
        len(cola.prompts) == len(cola.y) == 5000 and cola.y.sum() == 2500
    )  # facts: balanced, 5000 rows
    assert datasets.encode_labels(["not_bigram", "bigram", "not_bigram"], "x").tolist() == [1, 0, 1]
    assert datasets.encode_labels([True, False], "x").tolist() == [1, 0]
    first = datasets.load_dataset("87_glue_cola", max_rows=60)
    assert first.prompts == cola.prompts[:60] and np.array_equal(first.y, cola.y[:60])


def test_the_eight_ood_sets_have_about_300_rows_and_two_classes():
    assert [datasets.number(n) for n in datasets.ood_names()] == list(datasets.OOD_IDS)
    for name in datasets.ood_names():
        ood = datasets.load_ood(name)
        assert 290 <= len(ood.prompts) <= 300 and set(ood.y) == {0, 1}
        assert ood.family == datasets.family(name)


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["114_nyc_borough_Manhattan", "10_nyc_borough"], "nyc"),
        (["65_high-school", "85_mental-health", "66_living-room"], "bigram"),
        (["56_wikidatasex_or_gender", "59_wikidata_occupation_isjournalist"], "wikidata"),
        (["87_glue_cola", "136_glue_mnli_entailment", "113_movie_sent"], "glue"),
        (["158_code_C", "161_agnews_0", "139_news_class_Politics"], "agnews"),
        (["117_us_state_FL", "124_world_country_United_States"], "place"),
        (["95_toxic_is"], "toxic_is"),
    ],
)
def test_related_data_sets_share_a_family(names, group):
    assert {datasets.family(n) for n in names} == {group}


def test_texts_that_many_data_sets_share_stay_within_a_family():
    texts = {
        n: {datasets.row_hash(t) for t in datasets.load_texts(n)} for n in datasets.dataset_names()
    }
    names = list(texts)
    shared = [
        (a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if datasets.family(a) != datasets.family(b)
        and len(texts[a] & texts[b]) > 0.01 * min(len(texts[a]), len(texts[b]))
    ]
    assert shared == []


def test_halves_are_balanced_disjoint_and_never_cut_a_family():
    a, b = datasets.split()
    assert sorted(a + b) == sorted(datasets.dataset_names()) and abs(len(a) - len(b)) <= 1
    assert not {datasets.family(n) for n in a} & {datasets.family(n) for n in b}
    some = datasets.dataset_names()[::7]
    assert datasets.split(some, "A") == [n for n in some if n in a]
    with pytest.raises(HusaiError, match="'C' is not A or B"):
        datasets.split(some, "C")


def test_bad_names_and_single_classes_are_one_clear_line():
    with pytest.raises(HusaiError, match="nearest: 87_glue_cola"):
        datasets.load_dataset("87_glue_colla")
    with pytest.raises(HusaiError, match="numbered name"):
        datasets.number("glue")
    with pytest.raises(HusaiError, match="no out-of-distribution set"):
        datasets.load_ood("91_glue_qqp")
    with pytest.raises(HusaiError, match="two classes, has 1"):
        datasets.load_dataset("87_glue_cola", max_rows=1)
    with pytest.raises(HusaiError, match="two classes, has 3"):
        datasets.encode_labels([1, 2, 3], "x")
    with pytest.raises(HusaiError, match="10_nyc_borough"):
        datasets.load_texts("10_nyc_boro")


def test_probe_training_rows_are_those_of_sae_probes():
    # The draw of get_train_test_indices in sae-probes 0.4.2, re-stated: RandomState(42), positives
    # before negatives.
    y = datasets.load_dataset("95_toxic_is").y
    rng = np.random.RandomState(42)
    positives = rng.choice(np.where(y == 1)[0], size=314, replace=False)
    negatives = rng.choice(np.where(y == 0)[0], size=314, replace=False)
    assert np.array_equal(probe_train_rows(y), np.sort(np.concatenate([positives, negatives])))
    assert len(probe_train_rows(datasets.load_dataset("87_glue_cola").y)) == 1024
    with pytest.raises(HusaiError, match="raise max_rows"):
        probe_train_rows(np.array([0, 1] * 20))


@given(
    st.lists(st.text(alphabet="abXY", min_size=1), min_size=1),
    st.sampled_from([" ", "\n", "\t ", "  "]),
)
def test_row_hash_ignores_case_and_white_space_only(words, space):
    text = " ".join(words)
    assert datasets.row_hash(space + space.join(words).upper() + space) == datasets.row_hash(text)
    assert datasets.row_hash(text + " c") != datasets.row_hash(text)
