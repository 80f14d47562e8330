"""Nothing is read wrongly without a word: files that could be taken for something else are read as
what they are, or refused in one line.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_saes import D_IN, D_SAE, ROWS, dictionaries, linear, tensor, write_dictionary

from husai.errors import HusaiError
from husai.sae import SAE, evaluate_sae, load_sae, save_sae
from husai.sae.fold import fold_norms


def saelens_folder(folder, weights=None, **settings):
    """A standard SAE in SAELens' format, changed as told."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architecture": "standard", "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32"}
    metadata = {"sae_lens_version": "6.54.0"}
    (folder / "cfg.json").write_text(json.dumps({**config, "metadata": metadata, **settings}))
    plain = {
        "W_enc": tensor(D_IN, D_SAE),
        "W_dec": tensor(D_SAE, D_IN, seed=1),
        "b_enc": tensor(D_SAE, seed=2),
        "b_dec": tensor(D_IN, seed=3),
    }
    save_file({**plain, **(weights or {})}, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize("kind", list(dictionaries()))
def test_a_state_dict_without_its_settings_is_refused(tmp_path, kind):
    torch.save(dictionaries()[kind], tmp_path / "ae.pt")
    for path in (tmp_path, tmp_path / "ae.pt"):
        with pytest.raises(HusaiError, match="without the settings that say how to read them"):
            load_sae(path)
    write_dictionary(tmp_path / "run", kind, dictionaries()[kind], "checkpoints/ae_7.pt")
    (tmp_path / "run/config.json").unlink()
    with pytest.raises(HusaiError, match="without the settings"):
        load_sae(tmp_path / "run/checkpoints/ae_7.pt")


@pytest.mark.parametrize(
    ("settings", "weights", "message"),
    [
        ({"normalize_activations": "zscore"}, {}, "'zscore' is not known here"),
        ({"normalize_activations": "layer_norm"}, {}, "'layer_norm' rescales each row"),
        ({"normalize_activations": "constant_norm_rescale"}, {}, "rescales each row"),
        ({"normalize_activations": True}, {}, "factor is not beside it"),
        ({"normalize_activations": "covariance_whitening"}, {}, "matrices is not beside it"),
        ({}, {"scaling_factor": torch.full((D_SAE,), 1.1)}, "a finetuning scaling_factor"),
        ({}, {"finetuning_scaling_factor": torch.full((D_SAE,), 0.9)}, "a finetuning"),
        ({"finetuning_scaling_factor": True}, {}, "the weights hold no such tensor"),
        ({"dtype": "int4"}, {}, "dtype 'int4', which is not one of"),
        ({"architecture": "topk", "k": 3.5}, {}, r"k is 3\.5; a whole number is needed"),
        ({"architecture": "topk", "k": True}, {}, "k is True; a whole number is needed"),
        ({"architecture": "topk", "k": float("inf")}, {}, "k is inf; a whole number is needed"),
        ({}, {"W_enc": torch.ones(D_IN, D_SAE, dtype=torch.int8)}, "quantised weights are not"),
        ({"architecture": "batchtopk"}, {"topk_threshold": torch.tensor(0.0)}, "never measured"),
        (
            {"architecture": "jumprelu"},
            {"threshold": torch.full((D_SAE,), torch.inf)},
            "every entry of threshold is infinite",
        ),
        (
            {"architecture": "jumprelu"},
            {"threshold": torch.full((D_SAE,), torch.nan)},
            "threshold holds NaN",
        ),
    ],
)
def test_what_would_be_read_wrongly_is_refused_in_one_line(tmp_path, settings, weights, message):
    with pytest.raises(HusaiError, match=message) as caught:
        load_sae(saelens_folder(tmp_path / "sae", weights, **settings))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["abstopkk", "temporal", "crosscoder"])
def test_an_architecture_without_a_counterpart_gets_no_hint_to_edit_it(tmp_path, name):
    with pytest.raises(HusaiError, match=f"'{name}' has no counterpart here") as caught:
        load_sae(saelens_folder(tmp_path, architecture=name, k=3))
    assert "did you mean" not in str(caught.value)


def test_a_factor_beside_final_weights_is_a_contradiction(tmp_path):
    saelens_folder(tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.5}')
    with pytest.raises(HusaiError, match="they belong to different checkpoints"):
        load_sae(tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": null}')
    assert load_sae(tmp_path).architecture == "relu"


def test_latents_switched_off_by_an_infinite_threshold_survive_a_round_trip(tmp_path):
    threshold = tensor(D_SAE, seed=4).abs()
    threshold[::2] = torch.inf
    folder = saelens_folder(tmp_path / "a", {"threshold": threshold}, architecture="jumprelu")
    sae = load_sae(folder)
    save_sae(sae, tmp_path / "b")
    code = load_sae(tmp_path / "b").encode(ROWS)
    assert torch.equal(code, sae.encode(ROWS))
    assert not code[:, ::2].any() and code[:, 1::2].any()


def test_a_byte_order_mark_in_the_settings_is_no_damage(tmp_path):
    saelens_folder(tmp_path)
    path = tmp_path / "cfg.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_sae(tmp_path).d_sae == D_SAE


def test_half_precision_is_computed_in_float32_and_norms_are_folded_there(tmp_path):
    """AutoEncoder's decoder norms in float16 would be off by 1e-3."""
    state = {n: t.half() for n, t in linear(bias=tensor(D_IN, seed=3)).items()}
    write_dictionary(tmp_path, "AutoEncoder", state)
    sae, s = load_sae(tmp_path), {n: t.float() for n, t in state.items()}
    assert {sae.W_enc.dtype, sae.b_dec.dtype} == {torch.float32}
    norms = s["decoder.weight"].norm(dim=0)
    code = ((ROWS - s["bias"]) @ s["encoder.weight"].T + s["encoder.bias"]).relu() * norms
    torch.testing.assert_close(sae.encode(ROWS), code, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-6, rtol=0)


def test_mixed_formats_are_rounded_as_the_settings_say(tmp_path):
    folder = saelens_folder(tmp_path, {"b_enc": tensor(D_SAE).bfloat16()}, dtype="float16")
    sae = load_sae(folder)
    stored = load_file(folder / "sae_weights.safetensors")
    assert torch.equal(sae.W_enc, stored["W_enc"].half().float())
    assert torch.equal(sae.b_enc, stored["b_enc"].half().float())
    assert evaluate_sae(sae, ROWS)["l0"] > 0


@pytest.mark.parametrize("width", [D_IN, 7])
@pytest.mark.parametrize("architecture", ["transcoder", "jumprelu_transcoder"])
def test_a_transcoder_is_none_the_less_one_at_equal_widths(tmp_path, architecture, width):
    weights = {"W_dec": tensor(D_SAE, width), "b_dec": tensor(width)}
    weights["threshold"] = tensor(D_SAE).abs()
    sae = load_sae(saelens_folder(tmp_path / "a", weights, architecture=architecture, d_out=width))
    save_sae(sae, tmp_path / "b")
    for one in (sae, load_sae(tmp_path / "b"), sae.to(dtype=torch.float64)):
        assert one.transcodes and not one.apply_b_dec_to_input
        with pytest.raises(HusaiError, match="a transcoder reconstructs another hook"):
            evaluate_sae(one, ROWS)
    target = ROWS[:, :width]
    assert evaluate_sae(sae, ROWS, target)["n_rows"] == len(ROWS)


def test_settings_that_name_another_hook_to_write_to_make_a_transcoder(tmp_path):
    metadata = {
        "hook_name": "blocks.0.ln2.hook_normalized",
        "hook_name_out": "blocks.0.hook_mlp_out",
    }
    assert load_sae(saelens_folder(tmp_path, metadata=metadata)).transcodes
    same = {"hook_name": "h", "hook_name_out": "h"}
    assert not load_sae(saelens_folder(tmp_path, metadata=same)).transcodes


def test_signed_codes_count_as_active():
    sae = SAE("abstopk", torch.eye(4), torch.eye(4), torch.zeros(4), torch.zeros(4), k=2)
    x = torch.tensor([[-3.0, 1.0, -2.0, 0.5], [0.1, -0.2, 0.3, 4.0]])
    assert sae.encode(x).tolist() == [[-3.0, 0.0, -2.0, 0.0], [0.0, 0.0, pytest.approx(0.3), 4.0]]
    assert evaluate_sae(sae, x)["l0"] == 2.0


# --- Gemma Scope


def gemma(folder, **changes):
    folder.mkdir(parents=True)
    arrays = {
        "W_enc": tensor(D_IN, D_SAE),
        "W_dec": tensor(D_SAE, D_IN, seed=1),
        "b_enc": tensor(D_SAE, seed=2),
        "b_dec": tensor(D_IN, seed=3),
        "threshold": tensor(D_SAE, seed=4).abs(),
    }
    np.savez(folder / "params.npz", **{n: t.numpy() for n, t in arrays.items()}, **changes)
    return arrays


def test_gemma_scope_parameters(tmp_path):
    p = gemma(tmp_path / "layer_20/width_16k/average_l0_71")
    pre = ROWS @ p["W_enc"] + p["b_enc"]
    code = pre.relu() * (pre > p["threshold"])
    for path in (tmp_path / "layer_20/width_16k/average_l0_71", next(tmp_path.rglob("*.npz"))):
        sae = load_sae(path)
        torch.testing.assert_close(sae.encode(ROWS), code)
        torch.testing.assert_close(sae.forward(ROWS), code @ p["W_dec"] + p["b_dec"])
        assert (sae.architecture, sae.transcodes) == ("jumprelu", False)


def test_gemma_scope_files_that_are_something_else(tmp_path):
    gemma(tmp_path / "gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76")
    assert load_sae(next(tmp_path.rglob("*.npz"))).transcodes
    gemma(tmp_path / "embedding/width_4k/average_l0_111")
    with pytest.raises(HusaiError, match="divided by the square root"):
        load_sae(tmp_path / "embedding/width_4k/average_l0_111")
    gemma(tmp_path / "tuned", scaling_factor=np.full(D_SAE, 1.2))
    with pytest.raises(HusaiError, match="carries a finetuning scaling_factor"):
        load_sae(tmp_path / "tuned")
    bad = tmp_path / "objects"
    bad.mkdir()
    np.savez(bad / "params.npz", W_enc=np.array([{}], dtype=object))
    with pytest.raises(HusaiError, match="not a whole archive"):
        load_sae(bad)


# --- Language-Model-SAEs: models/sae.py of llamascopium 2.0


def language_model_sae(folder, act_fn, norms=(3.0, 3.0), **changes):
    folder.mkdir(parents=True)
    config = {
        "sae_type": "sae",
        "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
        "d_model": D_IN,
        "expansion_factor": D_SAE / D_IN,
        "act_fn": act_fn,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": False,
        "top_k": 5,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    s = {
        "W_E": tensor(D_IN, D_SAE),
        "b_E": tensor(D_SAE, seed=1),
        "W_D": tensor(D_SAE, D_IN, seed=2),
        "b_D": tensor(D_IN, seed=3),
    }
    if act_fn == "jumprelu":
        s["activation_function.log_jumprelu_threshold"] = tensor(D_SAE, seed=4, scale=0.2)
    for side, norm in zip(("in", "out"), norms, strict=True):
        s[f"dataset_average_activation_norm.{config[f'hook_point_{side}']}"] = torch.tensor(norm)
    save_file(s, folder / "sae_weights.safetensors")
    return s


def its_function(s, act_fn, norm_in, norm_out, by_norm):
    """normalize_activations, encode, decode, denormalize_activations."""
    pre = ROWS * D_IN**0.5 / norm_in @ s["W_E"] + s["b_E"]
    norms = s["W_D"].norm(dim=1) if by_norm else torch.ones(D_SAE)
    gate = pre * norms
    if act_fn == "topk":
        kept = torch.zeros_like(gate).scatter(-1, gate.topk(5, dim=-1).indices, 1.0) * (gate > 0)
    elif act_fn == "jumprelu":
        kept = gate > s["activation_function.log_jumprelu_threshold"].exp()
    else:
        kept = gate > 0
    code = pre * kept
    return code * norms, (code @ s["W_D"] + s["b_D"]) / (D_IN**0.5 / norm_out)


@pytest.mark.parametrize("act_fn", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("by_norm", [False, True])
def test_language_model_saes_read_raw_activations(tmp_path, act_fn, by_norm):
    s = language_model_sae(tmp_path / "a", act_fn, sparsity_include_decoder_norm=by_norm)
    code, out = its_function(s, act_fn, 3.0, 3.0, by_norm)
    sae = load_sae(tmp_path / "a")
    torch.testing.assert_close(sae.encode(ROWS), code, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.forward(ROWS), out, atol=1e-5, rtol=1e-5)
    assert (sae.cfg["hook_name"], sae.transcodes) == ("blocks.3.hook_resid_post", False)


def test_a_transcoder_of_language_model_saes_has_two_scales(tmp_path):
    s = language_model_sae(
        tmp_path / "a", "topk", (3.0, 8.0), hook_point_out="blocks.3.hook_mlp_out"
    )
    code, out = its_function(s, "topk", 3.0, 8.0, False)
    sae = load_sae(tmp_path / "a")
    assert sae.architecture == "transcoder"
    torch.testing.assert_close(sae.encode(ROWS), code, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.forward(ROWS), out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("act_fn", "changes", "message"),
    [
        ("batchtopk", {}, "act_fn 'batchtopk' has no counterpart"),
        ("relu", {"sae_type": "crosscoder"}, "sae_type 'crosscoder' has no counterpart"),
        ("relu", {"norm_activation": "token-wise"}, "rescales each row or batch"),
        ("relu", {"use_glu_encoder": True}, "use_glu_encoder"),
        ("relu", {"hook_point_in": "x"}, "is not beside it|was trained"),
    ],
)
def test_language_model_saes_without_a_counterpart(tmp_path, act_fn, changes, message):
    language_model_sae(tmp_path / "a", act_fn, **changes)
    if "hook_point_in" in changes:
        path = tmp_path / "a/sae_weights.safetensors"
        weights = {n: t for n, t in load_file(path).items() if "norm" not in n}
        save_file(weights, path)
    with pytest.raises(HusaiError, match=message):
        load_sae(tmp_path / "a")


@pytest.mark.parametrize("architecture", ["abstopk", "transcoder"])
def test_norms_are_folded_without_changing_what_is_chosen(architecture):
    """With unequal norms the largest of the folded pre-activations are others."""
    weights = (tensor(D_IN, D_SAE), tensor(D_SAE, D_IN, seed=1), tensor(D_SAE, seed=2))
    sae = SAE(architecture, *weights, tensor(D_IN, seed=3), k=4)
    folded = fold_norms(sae)
    code = sae.encode(ROWS)
    torch.testing.assert_close(folded.encode(ROWS), code * sae.W_dec.norm(dim=1))
    torch.testing.assert_close(folded.forward(ROWS), sae.forward(ROWS), atol=1e-5, rtol=1e-5)
    assert folded.transcodes == sae.transcodes
