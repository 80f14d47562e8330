"""The page of passports in a real browser: 16384 latents open within a second, sort, filter,
search, and show a latent, by mouse and by keyboard, in light and dark."""

import dataclasses

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from husai.passport.page import write_page
from husai.passport.posterior import BetaBinomial
from husai.passport.table import LatentTable

D_SAE, OTHERS = 16384, 7
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"


def table():
    """Passports of random numbers: the page does not ask where they come from."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return torch.from_numpy(rng.random(shape))

    columns = {field.name: draw(D_SAE) for field in dataclasses.fields(LatentTable)}
    reappears = draw(D_SAE, OTHERS) < 0.5
    per_match = ("decoder_cosine", "encoder_cosine", "activation_r")
    columns |= {name: draw(D_SAE, OTHERS) for name in per_match}
    return LatentTable(
        **columns
        | {
            "name": "seed1",
            "others": tuple(f"seed{k + 2}" for k in range(OTHERS)),
            "alive": draw(D_SAE) < 0.97,
            "match": (draw(D_SAE, OTHERS) * D_SAE).long(),
            "reappears": reappears,
            "reappearances": reappears.sum(1),
            "certified": draw(D_SAE) < 0.4,
            "model": BetaBinomial(0.9, 0.37, OTHERS),
        }
    )


@pytest.fixture(scope="module")
def passports():
    return table()


@pytest.fixture(scope="module")
def path(passports, tmp_path_factory):
    contexts = {
        latent: [{"tokens": [" a", word, HOSTILE], "activations": [0.0, 2.0, 0.5]}]
        for latent, word in [(5, " zebra"), (77, " zebra"), (90, " lion")]
    }
    where = tmp_path_factory.mktemp("page") / "passport.html"
    write_page(
        where,
        passports,
        title=HOSTILE,
        histograms=torch.randint(0, 99, (D_SAE, 24)),
        contexts=contexts,
        text_source="made up, CC0",
        links={"Gate report": "gate_report.html"},
    )
    return where


def numbers(page):
    return [int(button.inner_text()) for button in page.locator("#rows button").all()]


def test_it_opens_within_a_second_and_asks_nothing_of_the_network(path, visit):
    opened = visit(path)
    took = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    pages = [opened.page, visit(path).page, visit(path).page]
    assert min(page.evaluate(took) for page in pages) < 1000, "the quickest of three"
    assert opened.errors == []
    assert [u for u in opened.requests if not u.startswith(("file:", "data:"))] == []
    assert opened.page.locator("#rows tr").count() == 50
    assert opened.page.title() == HOSTILE


def test_it_sorts(path, passports, visit):
    page = visit(path).page
    page.get_by_role("button", name="Density").click()
    assert numbers(page) == passports.density.argsort(descending=True)[:50].tolist()
    page.get_by_role("button", name="Density").click()
    assert numbers(page) == passports.density.argsort()[:50].tolist()
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Density")


def test_it_filters_and_searches(path, passports, visit):
    page = visit(path).page
    page.select_option("[name=certified]", "yes")
    page.fill("[name=low]", "0.9")
    want = int((passports.certified & (passports.density.float() >= 0.9)).sum())
    page.locator("#place", has_text=f"of {want} latents").wait_for(timeout=5000)
    page.get_by_role("button", name="Clear").click()
    page.locator("#place", has_text=f"of {D_SAE} latents").wait_for(timeout=5000)
    page.fill("[name=words]", "zebra")
    page.locator("#place", has_text="of 2 latents").wait_for(timeout=5000)
    assert sorted(numbers(page)) == [5, 77]


def test_a_latent_is_shown_with_its_contexts_and_matches(path, passports, visit):
    opened = visit(path)
    page = opened.page
    page.fill("[name=number]", "77")
    page.locator("#place", has_text="of 1 latents").wait_for(timeout=5000)
    page.locator("#rows button").focus()
    page.keyboard.press("Enter")
    page.locator("#name", has_text="Latent 77").wait_for(timeout=5000)
    assert page.evaluate("document.activeElement.id") == "latent"
    details = page.locator("#details")
    assert f"of {OTHERS} other seeds" in details.inner_text()
    assert details.locator("svg rect").count() == 24
    assert details.locator("tbody tr").count() == OTHERS
    match = details.locator("tbody tr").first.locator("td").first.inner_text()
    assert int(match) == int(passports.match[77, 0])
    assert details.locator(".context b").inner_text().strip() == "zebra"
    assert HOSTILE in details.locator(".context").inner_text()
    assert opened.errors == []


def test_a_latent_has_an_address(path, visit):
    opened = visit(path)
    opened.page.goto(path.as_uri() + "#latent=90")
    opened.page.locator("#name", has_text="Latent 90").wait_for(timeout=5000)
    assert opened.errors == []


def test_without_contexts_there_is_nothing_to_search(passports, tmp_path, visit):
    write_page(tmp_path / "bare.html", passports, title="bare")
    opened = visit(tmp_path / "bare.html")
    assert not opened.page.locator("#search").is_visible()
    assert opened.errors == []
    opened.page.locator("#rows button").first.click()
    opened.page.locator("#details", has_text="Best match").wait_for(timeout=5000)
    assert opened.errors == []


@pytest.mark.parametrize("width", [375, 1400])
def test_it_never_scrolls_sideways(path, visit, width):
    page = visit(path, width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(path, visit, scheme):
    page = visit(path, scheme=scheme).page
    page.locator("#rows button").first.click()
    found = Axe().run(page).response["violations"]
    told = [f"{v['id']}: {v['help']} ({n['html'][:90]})" for v in found for n in v["nodes"][:2]]
    assert not told, "\n".join(told)
