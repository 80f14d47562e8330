"""SAELens is the judge: what we write it reproduces, what it writes we reproduce, to 1e-5 on codes
and reconstructions.
"""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from husai.errors import HusaiError
from husai.sae import evaluate_sae, load_sae, save_sae
from husai.sae.architectures import SAE

sae_lens = pytest.importorskip("sae_lens")

SIZES = [(12, 40), (12, 5)]  # d_sae above and below d_in


def tensor(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(architecture, d_in, d_sae, d_out=None, **kw):
    """A random SAE whose decoder rows are not of unit norm and whose biases are not zero."""
    d_out = d_out or d_in
    threshold = (
        tensor(d_sae, seed=5).abs()
        if architecture == "jumprelu"
        else torch.full((d_sae,), 0.7)
        if architecture == "batchtopk"
        else None
    )
    k = 3 if architecture in ("topk", "transcoder", "batchtopk") else None
    W = [
        tensor(d_in, d_sae),
        tensor(d_sae, d_out, seed=1),
        tensor(d_sae, seed=2),
        tensor(d_out, seed=3),
    ]
    return SAE(
        architecture,
        *W,
        threshold,
        k,
        {
            "hook_name": "blocks.1.hook_resid_post",
            "model_name": "tiny",
            "seed": 4,
            "recipe_hash": "ab",
        },
        **kw,
    )


def same(a, b, x):
    with torch.no_grad():
        torch.testing.assert_close(a.encode(x), b.encode(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            a.decode(a.encode(x)), b.decode(b.encode(x)), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("centred", [None, False])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "relu", "jumprelu", "transcoder"])
def test_saelens_reproduces_what_we_write(tmp_path, architecture, size, centred):
    ours = make(architecture, *size, apply_b_dec_to_input=centred)
    save_sae(ours, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    x = tensor(300, size[0], seed=9)
    same(ours, theirs, x)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward(x), theirs.forward(x), atol=1e-5, rtol=1e-5)
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
    assert theirs.cfg.metadata.recipe_hash == "ab"


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "batchtopk"])
def test_a_decoder_into_another_width_is_a_saelens_transcoder(tmp_path, architecture):
    ours = make(architecture, 12, 20, d_out=7, apply_b_dec_to_input=False)
    save_sae(ours, tmp_path)
    same(ours, sae_lens.SAE.load_from_disk(tmp_path), tensor(50, 12, seed=9))
    same(ours, load_sae(tmp_path), tensor(50, 12, seed=9))


def test_a_topk_transcoder_between_widths_is_refused_by_saelens_rather_than_misread(tmp_path):
    ours = make("transcoder", 12, 20, d_out=7)
    save_sae(ours, tmp_path)
    with pytest.raises(KeyError, match="topk_transcoder"):
        sae_lens.SAE.load_from_disk(tmp_path)
    same(ours, load_sae(tmp_path), tensor(50, 12, seed=9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "relu", "jumprelu", "transcoder"])
def test_saving_and_loading_is_the_identity(tmp_path, architecture, dtype):
    ours = make(architecture, 12, 40).to(dtype=dtype)
    save_sae(ours, tmp_path / "seed4")
    back = load_sae(tmp_path / "seed4")
    assert (back.architecture, back.k, back.apply_b_dec_to_input) == (
        ours.architecture,
        ours.k,
        ours.apply_b_dec_to_input,
    )
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        assert torch.equal(getattr(back, name), getattr(ours, name).float())
    assert ours.threshold is None or torch.equal(back.threshold, ours.threshold.float())
    assert back.cfg == {**ours.cfg, "format": "saelens"}
    assert sorted(p.name for p in (tmp_path / "seed4").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]


def training_sae(name, **settings):
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(name)
    sae = sae_class(config_class(d_in=12, d_sae=40, **settings))
    with torch.no_grad():
        for i, parameter in enumerate(sae.parameters()):
            parameter.add_(tensor(*parameter.shape, seed=20 + i, scale=0.3))
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.4)
    return sae


@pytest.mark.parametrize(
    ("name", "settings", "becomes"),
    [
        ("standard", {}, "relu"),
        ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}, "topk"),
        ("topk", {"k": 5, "rescale_acts_by_decoder_norm": False}, "topk"),
        ("topk", {"k": 5, "apply_b_dec_to_input": False}, "topk"),
        ("batchtopk", {"k": 5}, "jumprelu"),
        ("jumprelu", {"jumprelu_init_threshold": 0.3}, "jumprelu"),
        ("gated", {}, "jumprelu"),
    ],
)
def test_we_reproduce_what_saelens_writes_for_inference(tmp_path, name, settings, becomes):
    trained = training_sae(name, **settings)
    trained.save_inference_model(tmp_path)
    theirs, ours = sae_lens.SAE.load_from_disk(tmp_path), load_sae(tmp_path)
    assert ours.architecture == becomes
    same(ours, theirs, tensor(300, 12, seed=9))


def test_a_saelens_training_checkpoint_with_unfolded_decoder_norms_reads(tmp_path):
    trained = training_sae("topk", k=5, rescale_acts_by_decoder_norm=True)
    trained.save_model(tmp_path)
    same(load_sae(tmp_path), trained, tensor(300, 12, seed=9))


@pytest.mark.parametrize("name", ["transcoder", "jumprelu_transcoder"])
def test_saelens_transcoders_read(tmp_path, name):
    from sae_lens.registry import get_sae_class

    sae_class, config_class = get_sae_class(name)
    theirs = sae_class(config_class(d_in=12, d_sae=40, d_out=7, apply_b_dec_to_input=False))
    with torch.no_grad():
        for i, parameter in enumerate(theirs.parameters()):
            parameter.add_(tensor(*parameter.shape, seed=i, scale=0.3))
    theirs.save_model(tmp_path)
    ours = load_sae(tmp_path)
    assert ours.d_out == 7
    same(ours, theirs, tensor(300, 12, seed=9))


def test_a_version_5_topk_config_reads_as_saelens_reads_it(tmp_path):
    """Before version 6 the architecture was `standard` with a TopK activation function and the hook
    was a top-level key.
    """
    weights = {
        "W_enc": tensor(12, 40),
        "W_dec": tensor(40, 12, seed=1),
        "b_enc": tensor(40, seed=2),
        "b_dec": tensor(12, seed=3),
    }
    save_file(weights, tmp_path / "sae_weights.safetensors")
    config = {
        "architecture": "standard",
        "d_in": 12,
        "d_sae": 40,
        "dtype": "float32",
        "activation_fn_str": "topk",
        "hook_name": "h",
    }
    (tmp_path / "cfg.json").write_text(
        json.dumps({**config, "activation_fn_kwargs": {"k": 6}, "model_name": "m"})
    )
    ours = load_sae(tmp_path)
    assert (ours.architecture, ours.k, ours.cfg["hook_name"]) == ("topk", 6, "h")
    same(ours, sae_lens.SAE.load_from_disk(tmp_path), tensor(300, 12, seed=9))


def test_saelens_reproduces_a_trained_matryoshka_sae(tmp_path):
    from sae_helpers import recipe, rows

    from husai.sae import train_ensemble

    held_out = rows(300, seed=1)
    ours = train_ensemble(recipe("matryoshka"), [0], rows(1000), held_out=held_out).saes[0]
    save_sae(ours, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert theirs.cfg.architecture() == "jumprelu" and ours.architecture == "batchtopk"
    same(ours, theirs, held_out)
    assert evaluate_sae(load_sae(tmp_path), held_out)["l0"] == pytest.approx(4.0, rel=0.02)


def test_neither_writing_nor_reading_imports_sae_lens(tmp_path):
    save_sae(make("topk", 12, 40), tmp_path)
    code = (
        "import sys, torch; from husai.sae import load_sae, save_sae; s = "
        "load_sae(sys.argv[1]); save_sae(s, sys.argv[1]);"
    )
    code += (
        "bad = {'sae_lens', 'transformer_lens', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


def test_a_misconversion_shows():
    """A transposed encoder, the classic mistake, turns an exact reconstruction into a visibly bad
    one.
    """
    basis = torch.linalg.qr(tensor(16, 16))[0]
    x = tensor(500, 16, seed=3).abs() @ basis
    good = SAE("relu", basis.T.contiguous(), basis, torch.zeros(16), torch.zeros(16))
    bad = SAE("relu", basis.contiguous(), basis, torch.zeros(16), torch.zeros(16))
    assert evaluate_sae(good, x)["explained_variance"] > 0.999
    assert evaluate_sae(good, x)["l0"] == pytest.approx(16, abs=0.01)
    assert evaluate_sae(bad, x)["explained_variance"] < 0.5


def edit(path, **changes):
    config = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps({**config, **changes}))


def drop_tensor(path):
    weights = load_file(path / "sae_weights.safetensors")
    del weights["b_enc"]
    save_file(weights, path / "sae_weights.safetensors")


def poison(path):
    weights = load_file(path / "sae_weights.safetensors")
    weights["W_dec"][3, 3] = float("nan")
    save_file(weights, path / "sae_weights.safetensors")


def truncate(path):
    data = (path / "sae_weights.safetensors").read_bytes()
    (path / "sae_weights.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: edit(p, architecture="temporal"),
            "architecture 'temporal' has no counterpart here",
        ),
        (lambda p: edit(p, normalize_activations="layer_norm"), "'layer_norm' rescales each row"),
        (
            lambda p: edit(p, activation_fn="tanh-relu"),
            "activation_fn 'tanh-relu' is not supported",
        ),
        (lambda p: edit(p, d_sae=41), "the tensors give d_sae = 40 but d_in and d_sae say 41"),
        (lambda p: edit(p, k=99, metadata={}), "k must be between 1 and d_sae = 40, got 99"),
        (lambda p: edit(p, k="many", metadata={}), "k is .many.; a whole number is needed"),
        (drop_tensor, "tensor b_enc is missing"),
        (poison, "tensor W_dec holds NaN or infinity"),
        (truncate, "not a whole safetensors file"),
        (lambda p: (p / "cfg.json").write_text("{"), "not readable as JSON"),
        (lambda p: (p / "cfg.json").write_text("[]"), "holds a list"),
        (lambda p: (p / "cfg.json").unlink(), r"cfg\.json: no such file"),
        (lambda p: (p / "sae_weights.safetensors").unlink(), "its weights"),
    ],
)
def test_damaged_directories_are_one_line_errors(tmp_path, damage, message):
    save_sae(make("topk", 12, 40), tmp_path)
    damage(tmp_path)
    with pytest.raises(HusaiError, match=message) as caught:
        load_sae(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_broken_sae_is_not_written(tmp_path):
    sae = make("relu", 12, 40)
    sae.W_enc[0, 0] = float("inf")
    with pytest.raises(HusaiError, match="W_enc of this relu SAE holds NaN or infinity"):
        save_sae(sae, tmp_path / "seed0")
    assert not (tmp_path / "seed0").exists()
