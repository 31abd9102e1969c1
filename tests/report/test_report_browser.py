"""The report in a real browser: it opens, filters, and fits a phone."""

import shutil
import time

import pytest
import torch
from drawing import FAILED, PASSED, hidden, outcome, shapes

from captum_rdr.report import write_report
from captum_rdr.visualization import Reference

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="THE REPORT IS NOT TESTED IN A BROWSER: chromium or chromedriver is missing; "
    "install both (Debian: apt-get install chromium chromium-driver)",
)

N_QUERIES = 200
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
HOSTILE = ["<b onclick=alert(1)>x</b>", "</option></select><script>alert(2)</script>"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report on 200 queries, its significances in turn passed, failed and untested."""
    data = shapes(N_QUERIES)
    rdr = hidden(data)
    labels = torch.arange(N_QUERIES) % 2
    predictions = torch.where(torch.arange(N_QUERIES) % 10 == 0, 1 - labels, labels)
    regions = rdr.attribute_members(range(N_QUERIES), 5, 4, show_progress=False)
    found = [
        [outcome(region, PASSED), outcome(region, FAILED), region][index % 3]
        for index, region in enumerate(regions)
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    reference = Reference(data, labels, predictions, HOSTILE)
    write_report(
        path,
        rdr,
        range(N_QUERIES),
        reference,
        regions=found,
        n_members=8,
        show_progress=False,
    )
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def run(browser, script):
    return browser.execute_script(f"return {script}")


def choose(browser, name, text):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", name)).select_by_visible_text(text)


def shown(browser):
    return run(
        browser,
        "[...document.querySelectorAll('article')].filter(a => !a.hidden)"
        ".map(a => +a.id.split('-')[1] - 1)",
    )


def test_it_opens_quickly_and_without_errors(browser, page):
    began = time.monotonic()
    browser.get(page)
    took = time.monotonic() - began
    assert run(browser, "document.readyState") == "complete"
    assert browser.title == "Relaxed decision regions"
    assert shown(browser) == list(range(N_QUERIES))
    loaded = run(
        browser, "performance.getEntriesByType('navigation')[0].duration / 1000"
    )
    assert loaded < 2, (loaded, took)
    width = browser.execute_async_script(
        "const done = arguments[0], image = document.querySelector('#query-1 img');"
        "image.scrollIntoView(); image.decode().then(() => done(image.naturalWidth));"
    )
    assert width == 660
    assert browser.get_log("browser") == []


def test_it_filters(browser, page):
    browser.get(page)
    index = torch.arange(N_QUERIES)
    label = index % 2
    prediction = torch.where(index % 10 == 0, 1 - label, label)
    status = browser.find_element("id", "count")
    choose(browser, "label", HOSTILE[0])
    assert shown(browser) == (label == 0).nonzero().flatten().tolist()
    assert status.text == "100 of 200 queries shown"
    choose(browser, "prediction", HOSTILE[1])
    both = (label == 0) & (prediction == 1)
    assert shown(browser) == both.nonzero().flatten().tolist()
    choose(browser, "significance", "not significant")
    failed = both & (index % 3 == 1)
    assert shown(browser) == failed.nonzero().flatten().tolist()
    rows = run(
        browser,
        "[...document.querySelectorAll('tbody tr[data-query]')].map(r => !r.hidden)",
    )
    assert rows == failed.tolist()
    browser.find_element("css selector", "button[type=reset]").click()
    deadline = time.monotonic() + 5
    while len(shown(browser)) < N_QUERIES and time.monotonic() < deadline:
        time.sleep(0.02)
    assert shown(browser) == list(range(N_QUERIES))
    assert status.text == "200 of 200 queries shown"
    assert browser.get_log("browser") == []


def test_it_works_from_the_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.get(page)
    body = browser.find_element("css selector", "body")
    body.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the queries"
    left = "document.activeElement.getBoundingClientRect().left"
    assert run(browser, left) >= 0
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert run(browser, "document.activeElement.id") == "queries"
    browser.find_element("id", "significance").send_keys("not tested")
    assert run(browser, "document.getElementById('count').textContent") == (
        "66 of 200 queries shown"
    )


def test_names_from_outside_are_text(browser, page):
    browser.get(page)
    assert run(browser, "document.scripts.length") == 1
    assert run(browser, "document.querySelectorAll('[onclick]').length") == 0
    heading = browser.find_element("css selector", "#query-1 h2").text
    assert heading.startswith(f"Row 0: {HOSTILE[0]}, predicted {HOSTILE[1]} (wrong)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_contrast_in_light_and_dark(browser, page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)
    paper = luminance(run(browser, "getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.9) == (scheme == "light")
    for selector in ("body", "article .warning", ".note", ".verdict.failed", "a[href]"):
        element = f"document.querySelector({selector!r})"
        ink = luminance(run(browser, f"getComputedStyle({element}).color"))
        for ground in ("body", "article"):
            card = luminance(
                run(
                    browser,
                    f"getComputedStyle(document.querySelector({ground!r})).backgroundColor",
                )
            )
            bright, dim = max(ink, card) + 0.05, min(ink, card) + 0.05
            assert bright / dim >= 4.5, (selector, ground)  # WCAG 2, level AA


def luminance(color):
    """Relative luminance of ``rgb(r, g, b)``, WCAG 2."""
    channels = [
        int(part) / 255 for part in color.split("(")[1].rstrip(")").split(",")[:3]
    ]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_it_fits_a_phone(browser, page):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)
    assert run(browser, "document.documentElement.scrollWidth") <= 360
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
