"""SAEs named by a hub: a cache in a folder, offline, stands in for the hub."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from saved_saes import D_IN, D_SAE, tensor

from husai.errors import HusaiError
from husai.sae.formats import resolve
from husai.sae_files import expand, sae_files

pytest.importorskip("sae_lens")
REVISION = "0123456789012345678901234567890123456789"
RELEASE, REPOSITORY, SAE_ID = (
    "gpt2-small-res-jb",
    "jbloom/GPT2-Small-SAEs-Reformatted",
    "blocks.0.hook_resid_pre",
)


def publish(home, repository, folder, revision="main"):
    """A small SAE in ``folder`` of a repository, in the layout of the hub's cache; its weights."""
    root = home / "hub" / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(REVISION)
    where = root / "snapshots" / REVISION / folder
    where.mkdir(parents=True, exist_ok=True)
    weights = {
        "W_enc": tensor(D_IN, D_SAE),
        "W_dec": tensor(D_SAE, D_IN, seed=1),
        "b_enc": tensor(D_SAE, seed=2),
        "b_dec": tensor(D_IN, seed=3),
    }
    config = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "hook_point": SAE_ID}
    (where / "cfg.json").write_text(json.dumps(config))
    save_file(weights, where / "sae_weights.safetensors")
    return weights


LOAD = """
import sys, torch
from husai.errors import HusaiError
from husai.sae import load_sae
found = []
for spec in sys.argv[2:]:
    try:
        sae = load_sae(spec)
        found.append((sae.W_enc, sae.W_dec, sae.cfg))
    except HusaiError as error:
        found.append(str(error))
torch.save(found, sys.argv[1])
"""


def load(home, *specs):
    """What loading each gives: weights and notes, or the error. In a process of its own, as the
    client reads its environment once.
    """
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    out = home / "loaded.pt"
    subprocess.run([sys.executable, "-c", LOAD, out, *specs], env=environment, check=True)
    return torch.load(out)


def test_saes_of_a_repository_and_of_a_release(tmp_path):
    weights = publish(tmp_path, "me/mine", "layer3/seed0")
    publish(tmp_path, "me/mine", "", "v1")
    released = publish(tmp_path, REPOSITORY, SAE_ID)
    release = f"saelens:{RELEASE}/{SAE_ID}"
    found = load(tmp_path, "hf:me/mine/layer3/seed0", "hf:me/mine@v1", release, release)
    for (W_enc, W_dec, cfg), wanted in zip(found, (weights, weights, *[released] * 2), strict=True):
        torch.testing.assert_close(W_enc, wanted["W_enc"])
        torch.testing.assert_close(W_dec, wanted["W_dec"])
        assert cfg["hook_name"] == SAE_ID


def test_what_is_not_there_is_one_line(tmp_path):
    publish(tmp_path, "me/mine", "layer3/seed0")
    away = "not in the local cache, and the hub cannot be reached"
    wanted = {
        "hf:nobody/nothing": away,
        "hf:me/mine/absent": "the repository has no SAE at 'absent'",
        "hf:me/mine@v9": away,
        "hf:mine": "name a repository as hf:OWNER/REPO",
        "saelens:gpt2-small-res-jbb/x": "no release 'gpt2-small-res-jbb'; the nearest are gpt2-",
        f"saelens:{RELEASE}/blocks.0.hook_resid_post": "has no SAE .*; the nearest are blocks.",
        f"saelens:{RELEASE}": "name an SAE as saelens:RELEASE/SAE_ID",
        f"saelens:{RELEASE}/{SAE_ID}": away,
    }
    for (spec, message), error in zip(wanted.items(), load(tmp_path, *wanted), strict=True):
        assert isinstance(error, str) and len(error.splitlines()) == 1, spec
        assert error.startswith(spec) and re.search(message, error), error


def test_a_path_is_itself_and_a_hub_has_no_local_files(tmp_path):
    assert resolve(tmp_path) == tmp_path
    assert sae_files("hf:me/mine") == []
    assert [str(p) for p in expand(["hf:me/mine", "saelens:a/b/c"])] == [
        "hf:me/mine",
        "saelens:a/b/c",
    ]
    with pytest.raises(HusaiError, match="name a repository"):
        resolve("hf:")
