"""SAEs of a command line become candidates: by folder, by kind, with their members kept back."""

import pytest
import torch

from husai.brought.candidates import candidates
from husai.errors import HusaiError
from husai.sae import SAE, save_sae

HOOK = "blocks.1.hook_resid_post"


def save(folder, seed=0, d_sae=16, architecture="topk", hook=HOOK):
    W = torch.randn(d_sae, 8, generator=torch.Generator().manual_seed(seed))
    size = {"k": 2} if architecture == "topk" else {}
    zeros = torch.zeros(d_sae), torch.zeros(8)
    notes = {"hook_name": hook, "seed": seed}
    save_sae(SAE(architecture, W.T.contiguous(), W, *zeros, cfg=notes, **size), folder)
    return str(folder)


def test_a_folder_is_one_candidate_and_single_saes_of_one_kind_are_another(tmp_path):
    for seed in (0, 1):
        save(tmp_path / "mine" / f"seed{seed}", seed)
    lone = [save(tmp_path / name, seed=5, d_sae=32) for name in ("a", "b")]
    relu = save(tmp_path / "c", architecture="relu")
    found = candidates([str(tmp_path / "mine"), *lone, relu], hook_name=HOOK)
    assert [(c.name, len(c.members)) for c in found] == [
        ("mine", 2),
        ("topk-d32", 2),
        ("relu-d16", 1),
    ]


def test_kept_saes_go_to_the_candidate_of_their_kind_or_place(tmp_path):
    folders = []
    for name, d_sae in (("one", 16), ("two", 32), ("kept", 32), ("other", 16)):
        for seed in (0, 1):
            save(tmp_path / name / f"seed{seed}", seed, d_sae)
        folders.append(str(tmp_path / name))
    one, two, kept, other = folders
    found = candidates([one, two], [kept], hook_name=HOOK)
    assert [len(c.confirmation) for c in found] == [0, 2]
    found = candidates([one, other], [one, other], hook_name=HOOK)
    assert [c.confirmation == c.members for c in found] == [True, True]
    with pytest.raises(HusaiError, match="fits several candidates"):
        candidates([one, other], [other], hook_name=HOOK)
    with pytest.raises(HusaiError, match="kind of no candidate"):
        candidates([two], [other], hook_name=HOOK)


def test_what_cannot_be_a_candidate_is_refused(tmp_path):
    save(tmp_path / "mixed/seed0")
    save(tmp_path / "mixed/seed1", d_sae=32)
    with pytest.raises(HusaiError, match="name those of other kinds apart"):
        candidates([str(tmp_path / "mixed")], hook_name=HOOK)
    with pytest.raises(HusaiError, match=r"belongs to hook blocks\.0\.hook_resid_post"):
        candidates([save(tmp_path / "far", hook="blocks.0.hook_resid_post")], hook_name=HOOK)
