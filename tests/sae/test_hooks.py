"""An SAE's own notes are held against the hook it is used at."""

import pytest

from husai.sae.hooks import contradictions

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
