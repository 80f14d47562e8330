"""What ``husai judge`` says to inputs that fit together badly; a whole run is in tests/real."""

from pathlib import Path

import pytest
import torch
from hub import build

from husai.errors import HusaiError
from husai.jobs.judge import configuration
from husai.sae import SAE, save_sae

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A GPT-NeoX, a text, and SAEs trained on it."""
    return build.judge(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "nobody/nothing"}, "nobody/nothing"),
        ({"model": "{root}/topk"}, "no model in Hugging Face layout"),
        ({"hook": "blocks.0.hook_resid_pots"}, "did you mean 'blocks.0.hook_resid_post'"),
        ({"text": "{root}/empty.txt"}, "empty.txt"),
        ({"saes": "{root}/wide"}, "the SAE reads 48 values"),
        ({"saes": "saelens:gpt2-small-res-jbb/none"}, "gpt2-small-res-jb"),
    ],
)
def test_inputs_that_do_not_fit_are_one_line(inputs, monkeypatch, changes, said):
    """Without a hook in its notes an SAE can only be told by its width."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (inputs / "empty.txt").write_text("")
    wide = torch.eye(64, 48)
    zeros = torch.zeros(64), torch.zeros(48)
    save_sae(SAE("topk", wide.T.contiguous(), wide, *zeros, k=4), inputs / "wide")
    given = {"saes": "{root}/wide", "model": "{root}/model", "hook": build.TRAINED_HOOK}
    given |= {"text": "{root}/text.txt"} | changes
    given = {name: value.format(root=inputs) for name, value in given.items()}
    with pytest.raises(HusaiError, match=said) as refused:
        configuration(
            ROOT / "config/config.yaml",
            [given["saes"]],
            [],
            model=given["model"],
            hook=given["hook"],
            text=[Path(given["text"])],
        )
    assert "\n" not in str(refused.value)
