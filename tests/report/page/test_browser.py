"""The pages in a real browser, wide and narrow: Debian's Chromium without a screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support.reader import WIDTHS, Reader, chromium, served
from support.tiny import need

from benchmark.report.leaderboard import write_leaderboard
from benchmark.report.write import write_report

pytestmark = [pytest.mark.slow(3), pytest.mark.xdist_group("browser")]
PAPER, CORRECTED = {"mode": "paper", "alignment": "official"}, {"mode": "corrected", "alignment": "by_name"}
VISIBLE = "return [...document.querySelectorAll(arguments[0])].filter((e) => e.offsetParent !== null).length"
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
const texts = "h1, h2, h3, p, a, th, td, button, label span, legend, summary, dt, dd, figcaption, strong, li";
return [...document.querySelectorAll(texts)]
  .filter((e) => e.offsetParent !== null && e.textContent.trim() && !e.classList.contains("skip"))
  .map((e) => { const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    return [e.tagName, e.textContent.trim().slice(0, 40),
      (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; })
  .filter(([, , ratio]) => ratio < 4.5);
"""


@pytest.fixture(scope="module")
def site(new_store: Any, unit: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a leaderboard with one report, ``report/``."""
    folder = tmp_path_factory.mktemp("site")
    store = new_store(folder)
    ucf = {"dataset": "ucf", "features": "main", "variant": "published"}
    scores = {"tcaf": [(0.3, 0.2), (0.4, 0.2)], "avca": [(0.5, 0.4), (0.6, 0.4)], "cjme": [(0.1, 0.1), None]}
    units = [
        unit(method=m, scores=s, **ucf, **mode) for m, s in scores.items() for mode in (PAPER, CORRECTED)
    ]
    store.call([*units, unit(), unit(method="perceiver", trials=3, tuned=[(0.5, 0.2)])])
    write_report(store.tracker, folder / "report")
    write_leaderboard([folder / "report"], folder / "site")
    with served(folder / "site") as address:
        yield address


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Chromium without a screen."""
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(chromium())
        except ImportError:
            need("selenium: pip install -c constraints.txt -e '.[dev]'")
        except FileNotFoundError as error:
            need(str(error))
        yield browser


@pytest.fixture(params=list(WIDTHS))
def reader(request: pytest.FixtureRequest, driver: Any, site: str) -> Reader:
    return Reader(driver, f"{site}report/index.html", request.param)


def test_a_column_is_sorted_by_its_numbers_with_the_keyboard(reader: Reader) -> None:
    heads = reader.script(
        "return [...document.querySelectorAll('table thead tr:last-child th')].map((h) => h.innerText.trim())"
    )
    at = heads.index("S ours")
    head = f"table thead tr:last-child th:nth-child({at + 1})"
    written = reader.column(at)
    means = [float(text.split()[0].rstrip("‡")) for text in written]

    for state, expected in (("descending", sorted(means, reverse=True)), ("ascending", sorted(means))):
        reader.press(f"{head} button")
        assert reader.find(head).get_attribute("aria-sort") == state
        assert [float(text.split()[0].rstrip("‡")) for text in reader.column(at)] == expected
    reader.press(f"{head} button")
    assert reader.column(at) == written
    assert reader.complaints() == []


def test_a_switch_hides_the_rows_and_figures_of_other_modes(reader: Reader) -> None:
    rows, figures = (reader.script(VISIBLE, s) for s in (".chosen tr[data-mode]", "figure.plot"))
    label = reader.find("input[name=mode][value=corrected]")
    reader.script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", label)

    assert reader.script(VISIBLE, ".chosen tr[data-mode=paper]") == 0
    assert 0 < reader.script(VISIBLE, ".chosen tr[data-mode=corrected]") < rows
    assert 0 < reader.script(VISIBLE, "figure.plot") < figures
    assert "shown" in reader.find(".shown").text
    reader.press("input[name=mode]:checked", "\ue012")  # left: back to paper, as radio buttons go
    assert reader.script(VISIBLE, ".chosen tr[data-mode=corrected]") == 0
    assert reader.script(VISIBLE, ".chosen tr[data-mode=paper]") > 0
    assert reader.complaints() == []


def test_a_method_opens_its_runs_and_the_focus_returns(reader: Reader) -> None:
    reader.press("a.runs")

    assert reader.script("return document.getElementById('panel').open")
    assert reader.find("#panel-title").text == f"Runs of {reader.find('a.runs').get_attribute('textContent')}"
    assert reader.script(VISIBLE, "#panel a[href*='127.0.0.1:5000/#/experiments/']") > 0
    assert not reader.overflows()
    reader.press("#close", "\ue00c")  # Escape
    assert not reader.script("return document.getElementById('panel').open")
    assert reader.script("return document.activeElement.className") == "runs"
    assert reader.script("return document.querySelectorAll('details.method .body').length") == len(
        reader.script("return [...document.querySelectorAll('details.method')]")
    )
    assert reader.complaints() == []


@pytest.mark.parametrize("page", ["index.html", "published.html", "report/index.html"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_loads_nothing_fits_its_width_and_can_be_read(
    page: str, width: str, scheme: str, driver: Any, site: str
) -> None:
    reader = Reader(driver, site + page, width, scheme)
    for element in reader.driver.find_elements("css selector", "details"):
        reader.script("arguments[0].open = true", element)

    assert not reader.overflows()
    assert reader.script(CONTRAST) == []
    assert reader.complaints() == []
    assert reader.requests() == [site + page]


def test_figures_can_be_read_and_open_large(reader: Reader) -> None:
    narrow = reader.script("return innerWidth < 640")
    for wide, share, natural, box in reader.script(
        "return [...document.querySelectorAll('figure.plot')].map((f) => [f.classList.contains('wide'),"
        " f.offsetWidth / f.parentElement.offsetWidth, Number(f.querySelector('img').getAttribute('width')),"
        " f.querySelector('img').offsetWidth])"
    ):
        assert box >= natural if narrow else (share > 0.99) == wide, (wide, share, natural, box)
    assert reader.script(VISIBLE, "figure.wide") > 0
    reader.press("figure.wide a.enlarge")

    title = reader.find("#large-title").text
    assert title == reader.script("return document.querySelector('figure.wide figcaption span').textContent")
    shown, before = (
        reader.script(f"return document.querySelector('{s} img').offsetWidth")
        for s in ("#large", "figure.wide")
    )
    assert shown > before
    assert reader.script("return document.querySelector('#large img').naturalWidth") > 0
    assert not reader.overflows()
    reader.press("#close-large", "\ue00c")  # Escape
    assert not reader.script("return document.getElementById('large').open")
    assert reader.script("return document.activeElement.className") == "enlarge"
    assert reader.complaints() == []


def test_the_choice_of_light_or_dark_is_kept(reader: Reader) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = reader.script(ground)
    reader.press("#theme")

    dark = reader.script(ground)
    assert dark != light
    reader.driver.refresh()
    assert reader.script(ground) == dark
    assert reader.find("#theme").text == "Light theme"


def test_the_first_key_reaches_the_skip_link(reader: Reader) -> None:
    reader.find("body").send_keys("\ue004")  # Tab

    assert reader.script("return document.activeElement.className") == "skip"
    reader.press(".skip")
    assert reader.script("return document.activeElement.id") == "main"


def test_a_leaderboard_leads_to_its_reports(driver: Any, site: str) -> None:
    reader = Reader(driver, site, "desktop")
    reader.press("table a")

    assert reader.driver.current_url == f"{site}report/index.html"
