"""Checkpoints of other trainers give the functions their published classes compute, whatever d_sae
is; dangerous files run nothing.
"""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from husai.errors import HusaiError
from husai.sae import load_sae

SIZES = [(12, 40), (12, 5)]  # d_sae above and below d_in: shape alone cannot tell the orientation


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(d_in, d_sae, **more):
    """Weights as torch.nn.Linear stores them: (out, in)."""
    return {
        "encoder.weight": tensor(d_sae, d_in),
        "encoder.bias": tensor(d_sae, seed=1),
        "decoder.weight": tensor(d_in, d_sae, seed=2),
        **more,
    }


def topk(pre, k):
    values, indices = pre.relu().topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values)


def check(path, x, code, reconstruction, architecture):
    sae = load_sae(path)
    assert sae.architecture == architecture
    torch.testing.assert_close(sae.encode(x), code, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.forward(x), reconstruction, atol=1e-5, rtol=1e-5)
    return sae


# --- dictionary_learning 0.1: dictionary.py, trainers/top_k.py, trainers/batch_top_k.py,
# trainers/matryoshka_batch_top_k.py


def dictionary(path, state, kind, d_in, d_sae, **settings):
    torch.save(state, path / "ae.pt")
    trainer = {
        "dict_class": kind,
        "activation_dim": d_in,
        "dict_size": d_sae,
        "lm_name": "m",
        "submodule_name": "resid_3",
        **settings,
    }
    (path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))


@pytest.mark.parametrize("size", SIZES)
class TestDictionaryLearning:
    def test_relu(self, tmp_path, size):
        s = linear(*size, bias=tensor(size[0], seed=3))
        dictionary(tmp_path, s, "AutoEncoder", *size)
        x = tensor(60, size[0], seed=9)
        norms = s["decoder.weight"].norm(
            dim=0
        )  # from_pretrained normalises the decoder and moves its norms into the code
        code = ((x - s["bias"]) @ s["encoder.weight"].T + s["encoder.bias"]).relu() * norms
        sae = check(tmp_path, x, code, (code / norms) @ s["decoder.weight"].T + s["bias"], "relu")
        assert (sae.cfg["format"], sae.cfg["hook_name"], sae.cfg["model_name"]) == (
            "dictionary_learning",
            "resid_3",
            "m",
        )

    def test_relu_april_update(self, tmp_path, size):
        s = linear(*size, **{"decoder.bias": tensor(size[0], seed=3)})
        dictionary(tmp_path, s, "AutoEncoderNew", *size)
        x = tensor(60, size[0], seed=9)
        code = (x @ s["encoder.weight"].T + s["encoder.bias"]).relu()
        check(tmp_path, x, code, code @ s["decoder.weight"].T + s["decoder.bias"], "relu")

    def test_topk(self, tmp_path, size):
        s = linear(
            *size,
            b_dec=tensor(size[0], seed=3),
            k=torch.tensor(3, dtype=torch.int),
            threshold=torch.tensor(-1.0),
        )
        dictionary(tmp_path, s, "AutoEncoderTopK", *size, k=3)
        x = tensor(60, size[0], seed=9)
        code = topk((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"], 3)
        assert check(tmp_path, x, code, code @ s["decoder.weight"].T + s["b_dec"], "topk").k == 3

    def test_batchtopk(self, tmp_path, size):
        s = linear(
            *size,
            b_dec=tensor(size[0], seed=3),
            k=torch.tensor(3, dtype=torch.int),
            threshold=torch.tensor(1.1),
        )
        dictionary(tmp_path, s, "BatchTopKSAE", *size, k=3)
        x = tensor(60, size[0], seed=9)
        pre = ((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"]).relu()
        code = pre * (pre > 1.1)
        check(tmp_path, x, code, code @ s["decoder.weight"].T + s["b_dec"], "batchtopk")

    @pytest.mark.parametrize("kind", ["MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"])
    def test_weights_stored_as_parameters(self, tmp_path, size, kind):
        d_in, d_sae = size
        s = {
            "W_enc": tensor(d_in, d_sae),
            "W_dec": tensor(d_sae, d_in, seed=1),
            "b_enc": tensor(d_sae, seed=2),
            "b_dec": tensor(d_in, seed=3),
        }
        jump = kind == "JumpReluAutoEncoder"
        s |= (
            {"threshold": tensor(d_sae, seed=4).abs()}
            if jump
            else {"threshold": torch.tensor(0.8), "k": torch.tensor(3)}
        )
        dictionary(tmp_path, s, kind, *size, **({} if jump else {"k": 3}))
        x = tensor(60, d_in, seed=9)
        pre = (x if jump else x - s["b_dec"]) @ s["W_enc"] + s["b_enc"]
        code = pre.relu() * (pre > s["threshold"])
        check(
            tmp_path, x, code, code @ s["W_dec"] + s["b_dec"], "jumprelu" if jump else "batchtopk"
        )

    def test_gated(self, tmp_path, size):
        d_in, d_sae = size
        s = linear(*size, decoder_bias=tensor(d_in, seed=3), r_mag=0.3 * tensor(d_sae, seed=4))
        s |= {"gate_bias": tensor(d_sae, seed=5), "mag_bias": tensor(d_sae, seed=6)}
        del s["encoder.bias"]
        dictionary(tmp_path, s, "GatedAutoEncoder", *size)
        x = tensor(200, d_in, seed=9)
        shared = (x - s["decoder_bias"]) @ s["encoder.weight"].T
        code = (shared + s["gate_bias"] > 0) * (s["r_mag"].exp() * shared + s["mag_bias"]).relu()
        check(tmp_path, x, code, code @ s["decoder.weight"].T + s["decoder_bias"], "jumprelu")


# --- sparsify 1.3: sparse_coder.py


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify(tmp_path, size, transcode):
    d_in, d_sae = size
    s = {
        "encoder.weight": tensor(d_sae, d_in),
        "encoder.bias": tensor(d_sae, seed=1),
        "W_dec": tensor(d_sae, d_in, seed=2),
        "b_dec": tensor(d_in, seed=3),
    }
    save_file(s, tmp_path / "sae.safetensors")
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "num_latents": d_sae,
        "k": 3,
        "transcode": transcode,
        "d_in": d_in,
    }
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    x = tensor(60, d_in, seed=9)
    code = topk((x if transcode else x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"], 3)
    check(tmp_path, x, code, code @ s["W_dec"] + s["b_dec"], "transcoder" if transcode else "topk")


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({"activation": "groupmax"}, {}, "activation 'groupmax' has no counterpart"),
        ({"signed": True}, {}, "signed TopK has no counterpart"),
        ({"k": None}, {}, "key k is missing"),
        ({"k": 2.5}, {}, "k is 2.5; a whole number is needed"),
        ({"d_in": 13}, {}, "the tensors give d_in = 12 but d_in and num_latents say 13"),
        ({}, {"W_skip": torch.ones(12, 12)}, "W_skip is not zero"),
    ],
)
def test_sparsify_coders_without_a_counterpart_are_refused(tmp_path, changes, tensors, message):
    s = {
        "encoder.weight": tensor(40, 12),
        "encoder.bias": tensor(40),
        "W_dec": tensor(40, 12),
        "b_dec": tensor(12),
        **tensors,
    }
    save_file(s, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(
        json.dumps({"num_latents": 40, "k": 3, "d_in": 12, **changes})
    )
    with pytest.raises(HusaiError, match=message):
        load_sae(tmp_path)


# --- old HUSAI .pt


@pytest.mark.parametrize("size", SIZES)
class TestOldHusai:
    def test_topk_of_linear_layers(self, tmp_path, size):
        s = linear(*size, feature_counts=torch.zeros(size[1]))
        torch.save(
            {
                "model_state_dict": s,
                "d_model": size[0],
                "d_sae": size[1],
                "k": 3,
                "feature_counts": s["feature_counts"],
            },
            tmp_path / "sae.pt",
        )
        x = tensor(60, size[0], seed=9)
        code = topk(x @ s["encoder.weight"].T + s["encoder.bias"], 3)
        sae = check(tmp_path / "sae.pt", x, code, code @ s["decoder.weight"].T, "topk")
        assert (sae.d_in, sae.d_sae, sae.cfg["format"]) == (*size, "husai_pt")

    def test_relu_of_linear_layers(self, tmp_path, size):
        s = linear(*size)
        torch.save(
            {"model_state_dict": s, "d_model": size[0], "d_sae": size[1], "l1_coef": 1e-3},
            tmp_path / "sae.pt",
        )
        x = tensor(60, size[0], seed=9)
        code = (x @ s["encoder.weight"].T + s["encoder.bias"]).relu()
        check(tmp_path, x, code, code @ s["decoder.weight"].T, "relu")

    @pytest.mark.parametrize("architecture", ["topk", "relu", "batchtopk", "jumprelu"])
    def test_parameters_by_name(self, tmp_path, size, architecture):
        """The SAEBench classes centre the input by b_dec, except JumpReLU."""
        d_in, d_sae = size
        s = {
            "W_enc": tensor(d_in, d_sae),
            "W_dec": tensor(d_sae, d_in, seed=1),
            "b_enc": tensor(d_sae, seed=2),
            "b_dec": tensor(d_in, seed=3),
        }
        notes = {"architecture": architecture, "d_model": d_in, "d_sae": d_sae, "seed": 42}
        if architecture in ("topk", "batchtopk"):
            s, notes = (
                {**s, "k": torch.tensor(3), "threshold": torch.tensor(0.6)},
                {**notes, "k": 3},
            )
        if architecture == "jumprelu":
            s["threshold"] = tensor(d_sae, seed=4).abs()
        torch.save({"model_state_dict": s, **notes}, tmp_path / "sae_final.pt")
        x = tensor(60, d_in, seed=9)
        pre = (x if architecture == "jumprelu" else x - s["b_dec"]) @ s["W_enc"] + s["b_enc"]
        code = topk(pre, 3) if architecture == "topk" else pre.relu()
        if "threshold" in s and architecture != "topk":
            code = code * (pre > s["threshold"])
        sae = check(
            tmp_path / "sae_final.pt", x, code, code @ s["W_dec"] + s["b_dec"], architecture
        )
        assert sae.cfg["seed"] == 42

    def test_transposed_weights_are_caught_by_the_stated_sizes(self, tmp_path, size):
        s = {name: t.T.contiguous() if t.ndim == 2 else t for name, t in linear(*size).items()}
        torch.save(
            {"model_state_dict": s, "d_model": size[0], "d_sae": size[1], "k": 3},
            tmp_path / "sae.pt",
        )
        with pytest.raises(HusaiError, match=r"must be|do not belong together"):
            load_sae(tmp_path / "sae.pt")


# --- pickles


class Bomb:
    def __init__(self, call, *arguments):
        self.call = (call, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["sae.pt", "ae.pt"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, name, legacy):
    mark = tmp_path / "ran"
    payload = {"model_state_dict": linear(12, 40), "k": 3, "x": Bomb(os.system, f"touch {mark}")}
    torch.save(payload, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(
            HusaiError, match=r"refused, this pickle wants to run or build \S*system"
        ) as caught:
            load_sae(path)
        assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "bomb",
    [
        Bomb(exec, "raise SystemExit"),
        Bomb(eval, "1/0"),
        Bomb(open, "/dev/null"),
        Bomb(pickle.loads, b"N."),
    ],
)
def test_other_calls_are_refused(tmp_path, bomb):
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(bomb))
    with pytest.raises(HusaiError, match=r"refused|not a whole PyTorch file"):
        load_sae(tmp_path / "raw.pt")


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(3, 4), tmp_path / "model.pt")
    with pytest.raises(
        HusaiError,
        match=r"refused, this pickle wants to run or build \S*Linear\S*; save the tensors alone",
    ):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole PyTorch file"),
        (b"PK\x03\x04 half a zip", "not a whole PyTorch file"),
        (b"not a pickle at all", "refused|not a whole PyTorch file"),
    ],
)
def test_files_that_are_no_pickles(tmp_path, content, message):
    (tmp_path / "sae.pt").write_bytes(content)
    with pytest.raises(HusaiError, match=message) as caught:
        load_sae(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint(tmp_path):
    torch.save({"model_state_dict": linear(12, 40), "k": 3}, tmp_path / "sae.pt")
    data = (tmp_path / "sae.pt").read_bytes()
    (tmp_path / "sae.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(HusaiError, match="not a whole PyTorch file"):
        load_sae(tmp_path / "sae.pt")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([1, 2], "holds a list, not a dictionary of tensors"),
        ({"k": 3}, "holds no tensors"),
        (linear(12, 40, k=torch.tensor(3)), "tensors without the settings that say how to read"),
        ({"model_state_dict": linear(12, 40)}, "tensors without the settings that say how to"),
        (
            {"model_state_dict": {"encoder.weight": torch.zeros(4, 3)}, "k": 2},
            "tensor decoder.weight is missing",
        ),
        (
            {"model_state_dict": linear(12, 40), "architecture": "topk"},
            "k is neither in the settings nor in the file",
        ),
        (
            {"model_state_dict": linear(12, 40), "k": 3, "d_sae": 41},
            "the tensors give d_sae = 40 but d_model and d_sae say 41",
        ),
        (
            {"model_state_dict": linear(12, 40, k=torch.tensor(4)), "k": 3},
            "k is 3 in the settings but 4 in the file",
        ),
        (
            {"model_state_dict": linear(12, 40), "k": 41},
            "k must be between 1 and d_sae = 40, got 41",
        ),
        (
            {"model_state_dict": linear(12, 40), "architecture": "vae"},
            "architecture 'vae' cannot be read",
        ),
        (
            {
                "model_state_dict": linear(12, 40, threshold=torch.tensor(-1.0)),
                "architecture": "batch_topk",
                "k": 3,
            },
            "was never measured",
        ),
    ],
)
def test_checkpoints_that_are_no_saes(tmp_path, saved, message):
    torch.save(saved, tmp_path / "sae.pt")
    with pytest.raises(HusaiError, match=message) as caught:
        load_sae(tmp_path / "sae.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "key trainer.dict_class is missing"),
        (
            {"trainer": {"dict_class": "AutoEncoderTopk", "k": 3}},
            "'AutoEncoderTopk' has no counterpart here; read are AutoEncoder, ",
        ),
        (
            {"trainer": {"dict_class": "AutoEncoderTopK", "k": 3, "dict_size": 39}},
            "give d_sae = 40 but trainer.activation_dim and trainer.dict_size",
        ),
    ],
)
def test_dictionary_learning_settings_that_do_not_fit(tmp_path, config, message):
    torch.save(linear(12, 40, b_dec=torch.zeros(12)), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(HusaiError, match=message):
        load_sae(tmp_path)


def test_nothing_there(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / name)
    (tmp_path / "weights.h5").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path, "holds 2 .pt files, starting with a.pt; name one of them"),
        (tmp_path / "none", "no such file or directory"),
        (tmp_path / "weights.h5", "not an SAE file"),
        (tmp_path / "empty", "no SAE here"),
    ):
        with pytest.raises(HusaiError, match=message):
            load_sae(path)
