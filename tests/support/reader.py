"""A reader of pages: Debian's Chromium without a screen, driven by its own driver."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}

SETTLED = """
const [width, done] = arguments;
const look = () => requestAnimationFrame(
    () => innerWidth === width ? requestAnimationFrame(() => done()) : look());
look();
"""
"""Waits until a page is laid out in its width, which may come late on a busy machine."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder's files are served on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium without a screen.

    Raises:
        FileNotFoundError: the browser or its driver is not installed.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise FileNotFoundError("chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, Service(driver))
    try:
        yield browser
    finally:
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
        driver.execute_async_script(SETTLED, wide)

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
        rows = "[...document.querySelector('table').tBodies[0].rows]"
        cells = f"return {rows}.map((r) => r.cells[arguments[0]].textContent)"
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
