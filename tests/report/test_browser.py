"""The pages in a real browser, wide and narrow: Debian's Chromium without a screen, driven by its own driver."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tiny import need

from benchmark.report.leaderboard import write_leaderboard
from benchmark.report.write import write_report

pytestmark = pytest.mark.slow
PAPER, CORRECTED = {"mode": "paper", "alignment": "official"}, {"mode": "corrected", "alignment": "corrected"}
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
VISIBLE = "return [...document.querySelectorAll(arguments[0])].filter((e) => e.offsetParent !== null).length"
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
const texts = "h1, h2, h3, p, a, th, td, button, label span, legend, summary, dt, dd, figcaption, strong, li";
return [...document.querySelectorAll(texts)]
  .filter((e) => e.offsetParent !== null && e.textContent.trim() && !e.classList.contains("skip"))
  .map((e) => { const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    return [e.tagName, e.textContent.trim().slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; })
  .filter(([, , ratio]) => ratio < 4.5);
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(new_store: Any, unit: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a leaderboard with one report, ``report/``."""
    folder = tmp_path_factory.mktemp("site")
    store = new_store(folder)
    ucf = {"dataset": "ucf", "features": "main", "variant": "published"}
    scores = {"tcaf": [(0.3, 0.2), (0.4, 0.2)], "avca": [(0.5, 0.4), (0.6, 0.4)], "cjme": [(0.1, 0.1), None]}
    units = [unit(method=m, scores=s, **ucf, **mode) for m, s in scores.items() for mode in (PAPER, CORRECTED)]
    store.call([*units, unit(), unit(method="perceiver", trials=3, tuned=[(0.5, 0.2)])])
    write_report(store.tracker, folder / "report")
    write_leaderboard([folder / "report"], folder / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder / "site"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Chromium without a screen."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        need("chromium: apt-get install chromium chromium-driver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        need("selenium: pip install -c constraints.txt -e '.[dev]'")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, Service(chromedriver))
    yield browser
    browser.quit()


class Reader:
    """What a reader does with a page, and what the browser notes of it."""

    def __init__(self, driver: Any, address: str, width: str, scheme: str = "light") -> None:
        self.driver = driver
        wide, high = WIDTHS[width]
        metrics = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": width == "phone"}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme_of_system = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme_of_system})
        driver.get(address)
        driver.execute_script("localStorage.clear()")
        for log in ("browser", "performance"):
            driver.get_log(log)
        driver.get(address)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def press(self, selector: str, key: str = "\ue007") -> None:
        """Press a key (Enter) on an element."""
        element = self.find(selector)
        self.script("arguments[0].focus()", element)
        element.send_keys(key)

    def column(self, number: int) -> list[str]:
        """Texts of a column of the first table."""
        cells = "return [...document.querySelector('table').tBodies[0].rows].map((r) => r.cells[arguments[0]].textContent)"
        return list(self.script(cells, number))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def overflows(self) -> bool:
        return bool(self.script("return document.documentElement.scrollWidth > innerWidth"))


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


@pytest.mark.parametrize("page", ["index.html", "report/index.html"])
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
        assert box >= natural if narrow else (share > 0.99) == wide
    assert reader.script(VISIBLE, "figure.wide") > 0
    reader.press("figure.wide a.enlarge")

    title = reader.find("#large-title").text
    assert title == reader.script("return document.querySelector('figure.wide figcaption span').textContent")
    shown, before = (reader.script(f"return document.querySelector('{s} img').offsetWidth") for s in ("#large", "figure.wide"))
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
