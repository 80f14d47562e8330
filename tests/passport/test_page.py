"""The page of passports: what it embeds, and that nothing in it runs or loads that should not."""

import base64
import json
import re

import numpy as np
import pytest
import torch

from husai.errors import HusaiError
from husai.passport import certify
from husai.passport.page import passport_page, write_page
from husai.passport.planted import PlantedDesign, planted_sae, planted_world
from husai.stability.firing import activation_histograms

PLAN = PlantedDesign(d_in=24, d_sae=40, l0=3, n_rows=600)
HOSTILE = "</script><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def made():
    world = planted_world(PLAN, 2)
    saes = [planted_sae(world, s)[0] for s in range(4)]
    table = certify(saes, world.rows, null_draws=0).tables[0]
    return table, activation_histograms(saes[0], world.rows, table.max_activation), saes, world


def embedded(page):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1])


def test_the_page_holds_the_numbers_of_the_table(made):
    table, histograms, _, _ = made
    data = embedded(passport_page(table, title="one", histograms=histograms))
    density = np.frombuffer(base64.b64decode(data["columns"]["density"]), "<f4")
    assert density == pytest.approx(table.density.numpy(), nan_ok=True)
    match = np.frombuffer(base64.b64decode(data["per_match"]["match"]), "<f4").reshape(40, 3)
    assert (match == table.match.numpy()).all()
    heights = np.frombuffer(base64.b64decode(data["histograms"]), np.uint8).reshape(40, -1)
    assert (heights.max(1)[table.alive.numpy()] == 255).all()
    assert ((heights > 0) == (histograms.numpy() > 0)).all()


def test_histograms_count_every_firing_row(made):
    table, histograms, saes, world = made
    z = saes[0].encode(world.rows)
    assert torch.equal(histograms.sum(1), (z > 0).sum(0))
    latent = int(table.alive.nonzero()[0])
    want = torch.histc(z[:, latent][z[:, latent] > 0], 24, 0, float(z[:, latent].max()))
    assert (histograms[latent] - want).abs().sum() <= 2  # rounding at the edges of bins


def test_nothing_is_loaded_from_elsewhere(made):
    page = passport_page(made[0], title="one")
    assert not re.search(r'(src|href)="?(https?:)?//', page)
    assert "@import" not in page
    assert "fetch(" not in page


def test_text_cannot_leave_its_place(made):
    contexts = {3: [{"tokens": [HOSTILE, "/*DATA*/null"], "activations": [1.0, 0.0]}]}
    page = passport_page(
        made[0], title=HOSTILE, facts={HOSTILE: HOSTILE}, contexts=contexts, text_source="mine"
    )
    assert HOSTILE not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert embedded(page)["title"] == HOSTILE


def test_contexts_need_a_source_and_histograms_a_latent_each(made, tmp_path):
    contexts = {0: [{"tokens": ["a"], "activations": [1.0]}]}
    with pytest.raises(HusaiError, match="licence"):
        passport_page(made[0], title="one", contexts=contexts)
    with pytest.raises(HusaiError, match="3 histograms for 40 latents"):
        write_page(tmp_path / "page.html", made[0], title="one", histograms=torch.zeros((3, 5)))
    assert not (tmp_path / "page.html").exists()
