"""Modular and language subjects: they learn, the leak probe catches a planted leak, weights survive
a round trip.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from husai.errors import HusaiError
from husai.planning.specs import LanguageSpec, ModularSpec
from husai.subjects import Subject, language, load_subject, modular, transformer
from husai.subjects.leak import leak_record, wilson_lower
from husai.subjects.make import make_subject
from husai.subjects.padding import batches

SMALL = ModularSpec(
    kind="modular", name="m", p=13, d_model=32, d_mlp=64, n_heads=2, max_steps=30, batch_size=128
).values()


def test_wilson_lower_bound():
    # Wilson (1927), p = 0.5, n = 100, z = 1.6449: (0.5 + z^2/200 - z sqrt(0.0025 + z^2/40000)) / (1
    # + z^2/100)
    z = 1.6448536269514722
    assert wilson_lower(50, 100) == pytest.approx(
        (0.5 + z * z / 200 - z * math.sqrt(0.0025 + z * z / 40000)) / (1 + z * z / 100)
    )
    assert wilson_lower(0, 10) == 0.0 and wilson_lower(0, 0) == 0.0
    record = leak_record(10, 1000, 0.01)
    assert record["excess"] == 0.0 and record["excess_lcb"] < 0 and record["at_chance"]


def test_the_number_of_threads_changes_no_weight_of_a_subject(tmp_path):
    """Sums split over threads differ in their last bits, and training would magnify them."""
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        spec = {**SMALL, "p": 23, "n_heads": 4, "max_steps": 10, "batch_size": 512}
        metrics = make_subject(spec, tmp_path / str(threads))
        found.append((load_subject(tmp_path / str(threads)).model.state_dict(), metrics["loss"]))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0][1] == found[1][1]
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())


def test_the_answer_is_never_in_the_input():
    data = modular.pairs(7, 0.8, 0)
    tokens = modular.tokens(data.a, data.b, data.answer, 7, leak=False)
    assert tokens.shape == (49, 3) and torch.all(tokens[:, 2] == 7)
    other = modular.tokens(data.a, data.b, data.answer.roll(1), 7, leak=False)
    assert torch.equal(tokens, other)
    assert sorted(torch.cat([data.train, data.held_out]).tolist()) == list(range(49))
    assert torch.equal(data.answer, (data.a + data.b) % 7)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_logits_at_the_end_equal_the_full_forward_pass(n_layers):
    model = transformer.build(
        modular.model_config(modular.settings({**SMALL, "n_layers": n_layers})), seed=1
    )
    transformer.randomise(model, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            )
    tokens = torch.randint(0, 13, (50, 3))
    full = model(tokens)[:, -1]
    assert full.std() > 0.1
    torch.testing.assert_close(modular.end_logits(model, tokens), full, rtol=1e-4, atol=1e-5)


def test_a_modular_subject_learns_and_is_at_chance_on_shuffled_labels():
    spec = {
        **SMALL,
        "p": 31,
        "d_model": 64,
        "n_heads": 4,
        "d_mlp": 256,
        "max_steps": 600,
        "batch_size": 1024,
        "learning_rate": 5.0e-3,
        "target_accuracy": 0.95,
    }
    _, metrics = modular.train({**spec, "seed": 1})
    assert metrics["reached_target"] and metrics["accuracy"] >= 0.95 and metrics["steps"] < 600
    probe = metrics["leak_probe"]
    assert set(probe) >= {"accuracy", "chance", "n", "excess", "excess_lcb", "at_chance"}
    assert probe["at_chance"] and probe["chance"] == 1 / 31 and probe["n"] == metrics["n_held_out"]


def test_the_leak_probe_catches_the_answer_in_the_input():
    _, metrics = modular.train({**SMALL, "leak": True, "max_steps": 200})
    probe = metrics["leak_probe"]
    assert not probe["at_chance"] and probe["excess_lcb"] > 0.5
    assert probe["readings"]["fresh_model"]["accuracy"] > 0.5


def test_a_target_not_reached_is_recorded():
    _, metrics = modular.train({**SMALL, "max_steps": 3})
    assert not metrics["reached_target"] and metrics["steps"] == 3


def test_the_rows_stored_of_a_modular_subject_cover_all_pairs_once():
    rows = modular.row_split(13, seed=0)
    assert [len(rows[s]) for s in ("train", "held_out", "confirmation")] == [135, 17, 17]
    assert sorted(itertools.chain(*(r.tolist() for r in rows.values()))) == list(range(169))


@pytest.fixture(scope="module")
def contexts():
    """A two-token rhythm with noise: far below the unigram entropy for a model that looks back."""
    rng = np.random.default_rng(0)
    stream = (
        (np.arange(200 * 32) % 20 + 20 * (rng.random(200 * 32) < 0.1))
        .astype(np.int32)
        .reshape(200, 32)
    )
    return {"train": stream[:160], "held_out": stream[160:]}


LANGUAGE = LanguageSpec(
    kind="language",
    name="l",
    d_model=32,
    n_layers=1,
    n_heads=2,
    n_ctx=32,
    tokens=40_000,
    batch_size=16,
    learning_rate=1e-2,
).values()


def test_a_language_subject_beats_the_unigram_model_and_does_not_leak(contexts):
    _, metrics = language.train(LANGUAGE, contexts, 40)
    assert metrics["beats_unigram"] and metrics["improvement_nats"] > 1.0
    assert metrics["unigram_loss"] == pytest.approx(metrics["unigram_entropy"], abs=0.1)
    assert metrics["leak_probe"]["at_chance"] and abs(metrics["leak_probe"]["excess"]) < 0.05


def test_the_leak_probe_catches_a_language_model_fed_its_targets(contexts):
    _, metrics = language.train({**LANGUAGE, "leak": True}, contexts, 40)
    assert not metrics["leak_probe"]["at_chance"] and metrics["leak_probe"]["excess_lcb"] > 0.5


def test_the_leak_probe_catches_attention_that_looks_ahead(contexts):
    s = language.settings({**LANGUAGE, "tokens": 10_000})
    unigram = language.unigram_distribution(contexts["train"], 40)
    held_out = torch.from_numpy(contexts["held_out"])

    class Ahead:
        cfg = transformer.build(language.model_config(s, 40), 0).cfg

        def __call__(self, inputs):
            return torch.nn.functional.one_hot(inputs.roll(-1, dims=1), 40).float()

    assert not language.leak_probe(Ahead(), held_out, unigram, s)["at_chance"]


@pytest.fixture(scope="module")
def model():
    return transformer.build(language.model_config(language.settings(LANGUAGE), 40), seed=5)


def test_weights_and_configuration_survive_a_round_trip(model, tmp_path):
    transformer.save(model, tmp_path, {"name": "toy", "kind": "language"})
    subject = load_subject(tmp_path)
    tokens = torch.randint(0, 40, (3, 32))
    with torch.no_grad():
        torch.testing.assert_close(subject.model(tokens), model(tokens))
    assert subject.name == "toy" and subject.d_model == 32 and subject.n_ctx == 32


def test_damaged_or_missing_subjects_are_one_clear_line(model, tmp_path):
    with pytest.raises(HusaiError, match="holds no subject"):
        load_subject(tmp_path)
    transformer.save(model, tmp_path, {"name": "toy"})
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(HusaiError, match=r"model.safetensors: not readable"):
        load_subject(tmp_path)
    (tmp_path / "config.json").write_text('{"reference": {"revision": null, "sha256": null}}')
    with pytest.raises(HusaiError, match=r"config.json: lacks 'spec'"):
        load_subject(tmp_path)


def test_randomising_keeps_the_scale_and_nothing_else(model):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    copy = transformer.build(transformer.config_of(model), seed=9)
    with torch.no_grad():
        for (_, p), (_, q) in zip(copy.named_parameters(), model.named_parameters(), strict=True):
            p.copy_(q)
    transformer.randomise(copy, seed=0)
    for name, parameter in copy.named_parameters():
        if before[name].numel() > 500:
            assert parameter.std().item() == pytest.approx(before[name].std().item(), rel=0.1)
            assert not torch.equal(parameter, before[name])


def test_activations_match_run_with_cache(model):
    subject = Subject("toy", "language", model)
    tokens = torch.randint(0, 40, (5, 32))
    hooks = ["blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out", "blocks.0.attn.hook_z"]
    _, cache = model.run_with_cache(tokens)
    every = subject.activations(tokens, hooks, batch_size=2)
    for hook in hooks:
        torch.testing.assert_close(every[hook], cache[hook].flatten(2))
    assert subject.width("blocks.0.attn.hook_z") == 32


def test_ragged_inputs_come_back_in_order_whatever_the_padding(model):
    subject = Subject("toy", "language", model)
    ids = [np.arange(n) % 40 for n in (3, 32, 1, 17)]
    hook = "blocks.0.hook_resid_post"
    last = subject.activations(ids, [hook], positions="last")[hook]
    every = subject.activations(ids, [hook])[hook]
    for row, one in enumerate(ids):
        alone = model.run_with_cache(torch.from_numpy(one)[None])[1][hook][0]
        torch.testing.assert_close(last[row], alone[-1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(every[row], alone, rtol=1e-4, atol=1e-5)


def test_activations_that_are_not_finite_are_refused_except_in_padding():
    config = language.model_config({**LANGUAGE, "d_model": 16, "n_heads": 4, "n_ctx": 16}, 40)
    broken = transformer.build(config, 0).eval()
    with torch.no_grad():
        broken.W_E[0] = torch.nan
    subject, hook = Subject("toy", "language", broken), "hook_embed"
    ids = [np.array([3, 5, 7, 9]), np.array([4, 6])]  # the second is padded with token 0
    assert all(torch.isfinite(rows).all() for rows in subject.activations(ids, [hook])[hook])
    for positions in ("all", "last"):
        with pytest.raises(HusaiError, match="NaN or infinite activations at 'hook_embed'"):
            subject.activations([ids[0], np.array([4, 0])], [hook], positions=positions)


def test_batches_hold_every_row_once_within_the_budget():
    lengths = [5, 1, 9, 9, 2, 30]
    groups = batches(lengths, 20)
    assert sorted(r for g in groups for r in g) == list(range(6))
    assert all(len(g) == 1 or len(g) * max(lengths[r] for r in g) <= 20 for g in groups)


def test_bad_requests_are_one_clear_line(model):
    subject = Subject("toy", "language", model)
    with pytest.raises(
        HusaiError,
        match=r"no hook 'blocks.7.hook_resid_pre'; did you mean 'blocks.0.hook_resid_pre'.*hook_mlp_out",
    ):
        subject.activations(torch.zeros(1, 3, dtype=torch.int64), ["blocks.7.hook_resid_pre"])
    with pytest.raises(HusaiError, match="reads numbers, not text"):
        subject.activations(["text"], ["hook_embed"])
    with pytest.raises(HusaiError, match="at most 32"):
        subject.activations(torch.zeros(1, 40, dtype=torch.int64), ["hook_embed"])
    with pytest.raises(HusaiError, match="multiple of n_heads"):
        language.settings({**LANGUAGE, "d_model": 30, "n_heads": 4})
    with pytest.raises(HusaiError, match="p must be at least 3"):
        modular.settings({**SMALL, "p": 2})
