"""An SAE's own notes are held against the hook it is used at."""

import pytest

from husai.sae.hooks import contradictions, differences, remarks, stated_prepend_bos

HOOK = "blocks.3.hook_resid_post"


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({}, []),
        ({"hook_name": HOOK, "seqpos_slice": [None], "hook_head_index": None}, []),
        ({"hook_name": "resid_post_layer_3"}, []),
        ({"hook_name": "blocks.4.hook_resid_post"}, ["belongs to hook blocks.4.hook_resid_post"]),
        ({"hook_head_index": 0}, ["reads attention head 0"]),
        ({"seqpos_slice": [1, None]}, [r"trained on the positions [1:]"]),
        ({"hook_head_index": 2, "seqpos_slice": [0, 8]}, ["head 2", "positions [0:8]"]),
    ],
)
def test_contradictions(notes, said):
    found = contradictions(notes, HOOK)
    assert len(found) == len(said)
    assert all(part in phrase for part, phrase in zip(said, found, strict=True))


def test_another_model_or_way_of_reading_is_remarked_on():
    notes = {"model_name": "pythia-70m-deduped", "prepend_bos": True}
    assert remarks(notes, "EleutherAI/pythia-70m-deduped", True) == []
    assert remarks(notes, "/models/Pythia-70m-deduped/", None) == []
    (other,) = remarks(notes, "gpt2", True)
    assert "pythia-70m-deduped" in other and "gpt2" in other
    (bos,) = remarks(notes, None, False)
    assert "prepend_bos" in bos and "not there" in bos
    assert remarks({"model_name": 3}, "gpt2", True) == []


def test_saes_that_name_different_models_or_hooks_are_told_apart():
    one = {"model_name": "gpt2", "hook_name": HOOK}
    assert differences([one, {"model_name": "openai/gpt2"}, {}]) == []
    assert (
        len(differences([one, {"model_name": "bert", "hook_name": "blocks.1.hook_mlp_out"}])) == 2
    )


def test_the_bos_that_all_saes_state():
    assert stated_prepend_bos([{"prepend_bos": True}, {}]) is True
    assert stated_prepend_bos([{"prepend_bos": True}, {"prepend_bos": False}]) is None
