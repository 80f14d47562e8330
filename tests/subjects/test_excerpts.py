"""Excerpts: the strongest texts of each latent, with the activations that the SAE gives there."""

import pytest
import torch
from hub import build

from husai.errors import HusaiError
from husai.planning.specs import PretrainedSpec
from husai.subjects import Subject, language, padding, pretrained, transformer
from husai.subjects.excerpts import AFTER, BEFORE, excerpts, pieces, text_source

HOOK = build.HOOK


@pytest.fixture(scope="module", params=["encoder", "causal"])
def subject(request, tmp_path_factory):
    make = build.encoder_model if request.param == "encoder" else build.causal_model
    folder = make(tmp_path_factory.mktemp(request.param))
    spec = PretrainedSpec(kind="pretrained", name="s", model=str(folder))
    loaded = pretrained.fetch(spec.values())
    return Subject("s", "pretrained", loaded.model, loaded.tokenizer, loaded.record)


@pytest.fixture(scope="module")
def tokens(subject):
    return padding.padded(subject.encode(build.documents(30, seed=5), 40))


def encode(rows):
    """Sixteen latents in random directions; the seventeenth never fires."""
    directions = torch.randn(build.WIDTH, 16, generator=torch.Generator().manual_seed(0))
    return torch.cat([(rows @ directions).relu(), torch.zeros(len(rows), 1)], 1)


def test_each_latent_gets_the_texts_in_which_it_fires_most(subject, tokens):
    found = excerpts(subject, HOOK, encode, tokens, per_latent=3)
    rows = subject.activations([t[t >= 0].numpy() for t in tokens], [HOOK])[HOOK]
    usable = subject.usable(tokens)
    tops = torch.stack(
        [
            encode(r).masked_fill(~u[: len(r), None], 0.0).amax(0)
            for r, u in zip(rows, usable, strict=True)
        ]
    )
    assert 16 not in found
    for latent in range(16):
        expected = tops[:, latent].topk(3).values
        given = torch.tensor([max(one["activations"]) for one in found[latent]])
        torch.testing.assert_close(given, expected, rtol=6e-3, atol=1e-6)


def test_tokens_and_activations_stand_side_by_side(subject, tokens):
    for of_latent in excerpts(subject, HOOK, encode, tokens, per_latent=2).values():
        for one in of_latent:
            assert len(one["tokens"]) == len(one["activations"]) <= BEFORE + AFTER + 1
            assert one["tokens"][one["activations"].index(max(one["activations"]))] != ""


def test_the_pieces_of_a_text_read_as_the_text(subject):
    text = build.documents(3, seed=1)[1]
    ids = subject.encode([text], 40)[0].tolist()
    plain = [i for i in ids if i not in subject.special.ids]
    assert "".join(pieces(subject, ids)).strip() == subject.tokenizer.decode(plain).strip()


def test_a_subject_of_numbers_has_no_text_to_quote():
    s = language.settings({"d_model": 16, "n_layers": 1, "n_heads": 2, "n_ctx": 16})
    numbers = Subject("toy", "modular", transformer.build(language.model_config(s, 40), seed=0))
    with pytest.raises(HusaiError, match="no text to quote"):
        excerpts(numbers, "blocks.0.hook_resid_post", encode, torch.ones(2, 8).long())


def test_the_source_of_a_text_is_named_with_its_licence():
    sources = [{"kind": "files", "paths": ["a.txt"], "licence": "CC0-1.0"}]
    sources.append({"kind": "dataset", "name": "org/text"})
    named = text_source({"spec": {"corpus": {"sources": sources}}})
    assert named == "a.txt (licence: CC0-1.0); org/text (licence: not stated)"
    assert "sae-probes" in text_source({})
