"""A report in a real browser: sorted, filtered, its links followed, nothing asked for outside the file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdrun.reports.board import board
from kdrun.reports.page import page
from kdrun.reports.reading import read_runs
from tests.unit.test_reports import grid, hostile

pytestmark = pytest.mark.browser
FILTERS = {  # what is typed, and the settings that stay, by alpha
    "loss.alpha=0.90": ["0.9 best on validation"],
    "alpha=0": [],
    "alpha!=0.9": ["0.1"],
    "test/accuracy>0.93": ["0.9 best on validation"],
    "optimizer.lr=0.1 teacher=mlp n>=2 best=no": ["0.1"],
    "0.9 digits": ["0.9 best on validation"],
    "teacher>0": [],
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("needs chromium and chromium-driver (Debian's packages)")
    options = selenium.ChromeOptions()
    options.binary_location = found
    profile = tmp_path_factory.mktemp("profile")
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    from selenium.webdriver.chrome.service import Service

    started = selenium.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


def opened(browser: Any, folder: Path, title: str = "grid") -> Path:
    file = folder / "report.html"
    file.write_text(page(board(read_runs([folder / "runs"])), title))
    browser.get_log("performance")
    browser.get(file.as_uri())
    return file


def requested(browser: Any) -> set[str]:
    """Every address that was asked for since the last look."""
    import json

    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return {url for url in sent if not url.startswith("data:")}


def column(browser: Any, number: int) -> list[str]:
    script = "return [...document.querySelectorAll('#leaderboard tbody tr')].filter(r => !r.hidden)"
    return list(browser.execute_script(f"{script}.map(r => r.cells[{number}].textContent.trim())"))


def test_the_leaderboard_is_sorted_and_filtered_and_its_links_lead_somewhere(browser: Any, tmp_path: Path) -> None:
    grid(tmp_path / "runs")
    file = opened(browser, tmp_path)
    heads = browser.find_elements("css selector", "#leaderboard th button")
    test_accuracy = [head.text for head in heads].index("test accuracy")
    assert column(browser, test_accuracy) == ["94.50 ± 0.71 %", "91.00 ± 1.41 %"]
    heads[test_accuracy].click()
    heads[test_accuracy].click()
    assert column(browser, test_accuracy) == ["91.00 ± 1.41 %", "94.50 ± 0.71 %"]
    assert browser.find_elements("css selector", "th[aria-sort=ascending]")
    box = browser.find_element("css selector", "#filter")
    box.send_keys("loss.alpha=0.9")
    assert column(browser, test_accuracy) == ["94.50 ± 0.71 %"]
    assert browser.find_element("css selector", "#shown").text == "1 of 2 settings"
    for words, kept in FILTERS.items():
        box.clear()
        box.send_keys(words)
        assert column(browser, 0) == [f"alpha={alpha}" for alpha in kept], words
    box.clear()
    box.send_keys("los.alpha=0.9")
    assert browser.find_element("css selector", "#shown").text == "0 of 2 settings; none has a key los.alpha"
    box.clear()
    box.send_keys("loss.alpha=0.9")
    browser.find_element("css selector", "#leaderboard tbody tr:not([hidden]) a").click()
    assert browser.current_url.endswith("#run-1")
    assert browser.find_element("css selector", "#run-1").get_attribute("open") is not None
    assert requested(browser) == {file.as_uri()}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Any, width: int, height: int, scheme: str, tmp_path: Path) -> None:
    grid(tmp_path / "runs")
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    opened(browser, tmp_path)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper, ink = browser.execute_script("s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (light[0] > light[1]) == (scheme == "light")
    kept = Path(os.environ.get("KDRUN_SCREENSHOTS", tmp_path))  # for those who want to look at them
    assert browser.save_screenshot(str(kept / f"report-{width}-{scheme}.png"))


def test_a_hostile_run_runs_nothing_in_a_browser(browser: Any, tmp_path: Path) -> None:
    hostile(tmp_path / "runs")
    file = opened(browser, tmp_path, title="<script>document.title = 'ran'</script>")
    assert browser.title.startswith("kdrun report: <script>")
    assert requested(browser) == {file.as_uri()}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        browser.switch_to.alert.accept()


def test_a_page_without_a_policy_and_escaping_is_noticed(browser: Any, tmp_path: Path) -> None:
    import kdrun.reports.page as module
    from tests.conftest import mutated

    hostile(tmp_path / "runs")
    wrong = mutated(module, "autoescape=True", "autoescape=False")
    file = tmp_path / "report.html"
    html = wrong.page(board(read_runs([tmp_path / "runs"])), "<script>document.title = 'ran'</script>")
    file.write_text(html.replace("Content-Security-Policy", "X-Nothing").replace("alert(", "void("))
    browser.get(file.as_uri())
    assert browser.title == "ran"
