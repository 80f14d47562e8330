"""The pages a reader opens: no errors, no network, readable at any width, by keyboard, in the dark,
and by a screen reader; names from files stay text.
"""

import pytest
from axe_playwright_python.sync_playwright import Axe

PAGES = ("gate_report.html", "dag.svg", "dag_jobs.svg")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_pages_open_without_errors_and_ask_nothing_of_the_network(
    reports, visit, name, width, scheme
):
    opened = visit(reports / name, width, scheme)
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("width", [375, 1400])
def test_the_page_itself_never_scrolls_sideways(reports, visit, width):
    page = visit(reports / "gate_report.html", width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_is_dark(reports, visit):
    grey = "getComputedStyle(document.body).backgroundColor"
    light, dark = (
        visit(reports / "gate_report.html", scheme=scheme).page.evaluate(grey)
        for scheme in ("light", "dark")
    )
    assert light != dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(reports, visit, scheme):
    page = visit(reports / "gate_report.html", scheme=scheme).page
    page.click("#unfold")
    found = Axe().run(page).response["violations"]
    told = [f"{v['id']}: {v['help']} ({n['html'][:90]})" for v in found for n in v["nodes"][:2]]
    assert not told, "\n".join(told)


def test_every_link_and_folded_section_is_reached_by_keyboard(reports, visit):
    page = visit(reports / "gate_report.html").page
    wanted = page.locator("a[href]:visible, summary:visible, [tabindex='0']:visible").count()
    reached = set()
    for _ in range(3 * wanted + 5):
        page.keyboard.press("Tab")
        at = "[...document.querySelectorAll('*')].indexOf(document.activeElement)"
        reached.add(page.evaluate(at))
        if len(reached - {-1}) >= wanted:
            break
    assert wanted > 3 and len(reached) >= wanted


def test_names_from_files_stay_text(reports, visit):
    page = visit(reports / "gate_report.html").page
    page.click("#unfold")
    assert page.title() != "owned"
    assert page.locator("img[src=x]").count() == 0
    assert "onerror" in page.inner_text("body")


def test_it_prints_with_every_section_open(reports, visit):
    opened = visit(reports / "gate_report.html")
    assert len(opened.page.pdf(format="A4")) > 10_000
    assert opened.page.locator("details:not([open])").count() == 0


def test_the_verdict_is_seen_first_and_the_rest_is_folded(reports, visit):
    page = visit(reports / "gate_report.html").page
    assert page.get_by_text("Do not use these SAEs as evidence").is_visible()
    assert page.get_by_text("find the same features?").is_visible()
    assert not page.get_by_text("Does the gate say no when it should?").is_visible()
    page.get_by_role("link", name="Self-test").click()
    page.get_by_text("Does the gate say no when it should?").wait_for(timeout=5000)


def test_a_table_is_sorted_by_keyboard(reports, visit):
    page = visit(reports / "gate_report.html").page
    margins = page.locator("#verdict tbody td.number")
    head = page.get_by_role("button", name="margin")
    head.focus()
    page.keyboard.press("Enter")
    rising = [float(text) for text in margins.all_inner_texts()]
    assert rising == sorted(rising) and len(rising) > 2
    assert page.locator("#verdict th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert [float(text) for text in margins.all_inner_texts()] == sorted(rising, reverse=True)


def test_a_word_is_explained_on_focus_and_on_hover_until_escape(reports, visit):
    page = visit(reports / "gate_report.html").page
    page.click("#unfold")
    word = page.locator("button[aria-describedby='w-S']").first
    word.focus()
    assert "corrected for chance" in page.locator("#tip").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    word.hover()
    assert page.locator("#tip").is_visible()
