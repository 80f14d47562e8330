"""Faithfulness: 1 for the identity and 0 for the mean on every kind of subject, whatever the
batching; losses are those that the definitions give; what cannot be spliced is refused.
"""

import numpy as np
import pytest
import torch
from hub import build

from husai.errors import HusaiError
from husai.faithfulness import measure, recovered
from husai.planning.specs import PretrainedSpec
from husai.statistics.recovered import recovered_interval
from husai.subjects import Subject, modular, pretrained, transformer

HOOK = "blocks.1.hook_resid_post"


def identity(rows):
    return rows


def zero(rows):
    return torch.zeros_like(rows)


def rounded(rows):
    return (rows * 4).round() / 4


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    build.causal_model(root / "neox")
    build.encoder_model(root / "bert")
    found = {}
    for name in ("neox", "bert"):
        spec = PretrainedSpec(kind="pretrained", name=name, model=str(root / name))
        model, tokenizer, record = pretrained.fetch(spec.values())
        found[name] = Subject(name, "pretrained", model, tokenizer, record)
    s = modular.settings({"p": 11, "d_model": 16, "d_mlp": 32, "n_heads": 2, "n_layers": 2})
    model = transformer.build(modular.model_config(s), seed=0).eval().requires_grad_(False)
    return {**found, "modular": Subject("modular", "modular", model)}


def texts_of(subject):
    if subject.task == "answer":
        data = modular.pairs(11, 0.8, 0)
        return modular.tokens(data.a, data.b, data.answer, 11, False)[:40], data.answer[:40]
    ids = subject.encode(build.documents(24, seed=5), 40)
    tokens = torch.full((len(ids), max(map(len, ids))), -1)
    for row, i in zip(tokens, ids, strict=True):
        row[: len(i)] = torch.from_numpy(i)
    return tokens, None


@pytest.mark.parametrize("name", ["neox", "bert", "modular"])
def test_the_identity_recovers_all_and_the_mean_nothing(subjects, name):
    subject = subjects[name]
    tokens, answers = texts_of(subject)
    hook = "blocks.0.hook_resid_post" if name == "modular" else HOOK
    values = subject.capture(tokens, [hook])[hook]
    mean = values[subject.usable(tokens)].mean(0)
    saes = [identity, lambda rows: mean.expand_as(rows), rounded]
    whole, nothing, some = recovered(subject, hook, saes, tokens, answers=answers)
    assert whole.recovered.value == pytest.approx(1.0, abs=1e-4)
    assert nothing.recovered.value == pytest.approx(0.0, abs=1e-3)
    assert whole.texts["ablated"].sum() > 0 and len(whole.texts["ablated"]) == len(tokens)
    assert np.abs(whole.texts["spliced"]).max() < 1e-3 * whole.texts["ablated"].max()
    # A model that learned nothing may lose nothing: only a distance is above 0 for certain.
    assert name != "bert" or 0 < some.recovered.value < 1 - 1e-6
    again = recovered_interval(some.texts["spliced"], some.texts["ablated"])
    assert again == some.recovered
    assert again.lcb < again.value < again.ucb


@pytest.mark.parametrize("name", ["neox", "bert", "modular"])
def test_batching_and_company_change_nothing(subjects, name, monkeypatch):
    subject = subjects[name]
    tokens, answers = texts_of(subject)
    hook = "blocks.0.hook_resid_post" if name == "modular" else HOOK
    together = recovered(subject, hook, [zero, rounded], tokens, answers=answers)
    monkeypatch.setattr(measure, "TOKENS_PER_PASS", 50)
    for sae, found in zip((zero, rounded), together, strict=True):
        (alone,) = recovered(subject, hook, [sae], tokens, answers=answers)
        for key, values in found.texts.items():
            scale = np.abs(found.texts["ablated"]).max()
            np.testing.assert_allclose(alone.texts[key], values, atol=1e-4 * scale)


def test_the_losses_of_a_causal_model_are_cross_entropy_above_clean_and_kl(subjects):
    subject = subjects["neox"]
    tokens, _ = texts_of(subject)
    (found,) = recovered(subject, HOOK, [zero], tokens)
    for row in (0, 7):
        ids = tokens[row][tokens[row] >= 0][None]
        kept = subject.usable(ids).unsqueeze(-1)

        def ablate(x, kept=kept):
            return torch.where(kept, torch.zeros_like(x), x)

        clean, spliced = (
            subject.output(ids, *more)[0, :-1].log_softmax(-1) for more in ((), (HOOK, ablate))
        )
        loss = (clean - spliced)[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum()
        kl = (clean.exp() * (clean - spliced)).sum()
        assert found.texts["spliced"][row] == pytest.approx(loss.item(), rel=1e-3, abs=1e-4)
        assert found.texts["kl_spliced"][row] == pytest.approx(kl.item(), rel=1e-3, abs=1e-4)
        assert found.texts["tokens"][row] == ids.shape[1] - 1


def test_the_first_and_special_tokens_keep_their_own_activations(subjects):
    subject, seen = subjects["bert"], []
    tokens, _ = texts_of(subject)
    recovered(subject, HOOK, [lambda rows: seen.append(len(rows)) or rows], tokens)
    assert sum(seen) == int(((tokens >= 0) & (tokens != 2) & (tokens != 3)).sum())


def test_what_cannot_be_spliced_is_refused(subjects):
    subject = subjects["bert"]
    tokens, _ = texts_of(subject)
    with pytest.raises(HusaiError, match=r"shape .* only an SAE of this hook"):
        recovered(subject, HOOK, [lambda rows: rows[:, :3]], tokens)
    with pytest.raises(HusaiError, match="NaN"):
        recovered(subject, HOOK, [lambda rows: rows * torch.nan], tokens)
    with pytest.raises(HusaiError, match=r"no hook 'blocks\.8"):
        recovered(subject, "blocks.8.hook_resid_post", [zero], tokens)
    with pytest.raises(HusaiError, match="right answers"):
        recovered(subjects["modular"], HOOK, [zero], torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(HusaiError, match="at least one text"):
        recovered(subject, HOOK, [zero], tokens[:0])


def test_the_interval_of_several_seeds_is_the_wider_one():
    rng = np.random.default_rng(0)
    ablated = rng.random(60) + 0.5
    spliced = ablated * (0.2 + 0.01 * rng.standard_normal((5, 60)))
    spliced[0] *= 1.5
    found = recovered_interval(spliced, ablated)
    per_seed = 1 - spliced.sum(1) / ablated.sum()
    assert found.value == pytest.approx(per_seed.mean()) and found.n == 5
    half = 2.7764451 * per_seed.std(ddof=1) / np.sqrt(5)  # Student t, 4 degrees of freedom, 97.5%
    assert found.value - found.lcb == pytest.approx(half, rel=1e-6)
    nothing = recovered_interval(np.zeros(3), np.zeros(3))
    assert np.isnan(nothing.value) and nothing.lcb == -np.inf
