"""The pages in a real browser: they open, filter, sort, enlarge, and fit a phone."""

import shutil
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from drawing import FAILED, PASSED, hidden, marked, misled, outcome, shapes
from torch.utils.data import TensorDataset

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, Concept, Errors
from captum_rdr.report import write_atlas, write_report
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
    browser.get(page)
    assert run(browser, "document.readyState") == "complete"
    assert browser.title == "Relaxed decision regions"
    assert shown(browser) == list(range(N_QUERIES))
    loaded = quickest(browser)
    assert loaded < 2
    width = browser.execute_async_script(
        "const done = arguments[0], map = document.querySelector('details.map');"
        "map.open = true; const image = map.querySelector('img');"
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
        "[...document.querySelectorAll('tbody tr[data-for]')].map(r => !r.hidden)",
    )
    assert rows == failed.tolist()
    browser.find_element("css selector", "button[type=reset]").click()
    deadline = time.monotonic() + 5
    while len(shown(browser)) < N_QUERIES and time.monotonic() < deadline:
        time.sleep(0.02)
    assert shown(browser) == list(range(N_QUERIES))
    assert status.text == "200 of 200 queries shown"
    assert browser.get_log("browser") == []


def test_its_table_sorts_and_all_members_show(browser, page):
    browser.get(page)
    column = browser.find_element("xpath", "//th[contains(., 'Members')]/button")
    members = (
        "[...document.querySelectorAll('tbody tr[data-for]')]"
        ".map(row => +row.cells[row.cells.length - 1].textContent)"
    )
    column.click()
    assert run(browser, members) == sorted(run(browser, members))
    column.click()
    counts = run(browser, members)
    assert counts == sorted(counts, reverse=True)
    heading = browser.find_element("xpath", "//th[contains(., 'Members')]")
    assert heading.get_attribute("aria-sort") == "descending"
    choose(browser, "sort", "most members")
    first = browser.find_element("css selector", "article")
    assert int(first.get_attribute("data-members")) == counts[0]
    more = first.find_element("css selector", ".more")
    total = int(more.text.split()[-1])
    assert total > 8
    browser.execute_script("arguments[0].scrollIntoView(); arguments[0].click()", more)
    lists = first.find_elements("css selector", ".tiles")
    pictures = lists[1].find_elements("css selector", "button.t")
    assert len(pictures) == min(total, 200)
    assert not first.find_elements("css selector", ".more")
    browser.switch_to.active_element.click()
    assert browser.find_element("id", "large-place").text == f"1 of {len(pictures)}"
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
    browser.get(page)  # which may return early where only the hash differs
    assert waited(browser, "document.scripts.length", 1) == 1
    assert run(browser, "document.querySelectorAll('[onclick]').length") == 0
    heading = browser.find_element("css selector", "#query-1 h2").text
    assert heading.startswith(f"Row 0: {HOSTILE[0]}, predicted {HOSTILE[1]} (wrong)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_contrast_in_light_and_dark(browser, page, scheme):
    selectors = ("body", "article .warning", ".note", ".verdict.not-significant")
    check_contrast(browser, page, scheme, (*selectors, "a[href]"))


def check_contrast(browser, page, scheme, selectors):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page)
    paper = luminance(run(browser, "getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.9) == (scheme == "light")
    for selector in selectors:
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


N_CONCEPTS = 100


@pytest.fixture(scope="module")
def atlas_page(tmp_path_factory):
    """An atlas of 100 concepts; each third errs more, each third was not tested."""
    data = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Flatten()
    rdr = RelaxedDecisionRegion(model, model, threshold="median")
    rdr = rdr.fit(data, keep_features=True, show_progress=False)
    labels = [HOSTILE[row % 2] for row in range(400)]
    regions = rdr.attribute_members(range(N_CONCEPTS), 5, 4, show_progress=False)
    concepts = []
    for number, region in enumerate(regions):
        rows = torch.arange(number, 400, N_CONCEPTS)[: 1 + number % 4]
        counts = Counter({HOSTILE[number % 2]: len(rows)})
        errors = Errors(1, number / N_CONCEPTS, 0.3, 0.01 if number % 3 == 0 else 0.5)
        tested = [outcome(region, PASSED), outcome(region, FAILED), region][number % 3]
        concepts.append(Concept(tested, rows, rows, 0.01, 0.5, counts, errors))
    numbers = torch.arange(400) % N_CONCEPTS
    found = Atlas(tuple(concepts), torch.arange(400), numbers, 0.9, rdr)
    path = tmp_path_factory.mktemp("atlas") / "atlas.html"
    names = [f"folder/{row:03}.png" for row in range(400)]
    write_atlas(path, found, Reference(data, labels), names=names, show_progress=False)
    return path.as_uri()


def quickest(browser):
    """Seconds that the page takes to open, at best of three: other work slows it."""
    times = []
    for _ in range(3):
        browser.refresh()
        waited(browser, "document.readyState", "complete")
        times.append(
            run(browser, "performance.getEntriesByType('navigation')[0].duration")
        )
    return min(times) / 1000


def waited(browser, script, wanted):
    """What a script gives, as soon as it is what is wanted, or after five seconds."""
    deadline = time.monotonic() + 5
    while (found := run(browser, script)) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def concepts_shown(browser):
    return [number + 1 for number in shown(browser)]


def test_an_atlas_opens_quickly_and_without_errors(browser, atlas_page):
    browser.get(atlas_page)
    assert waited(browser, "document.readyState", "complete") == "complete"
    loaded = quickest(browser)
    assert loaded < 2
    assert concepts_shown(browser) == list(range(N_CONCEPTS))
    assert len(browser.find_elements("css selector", "#map a")) == N_CONCEPTS
    assert run(browser, "document.scripts.length") == 1
    assert run(browser, "document.querySelectorAll('[onclick]').length") == 0
    found = browser.find_element("css selector", ".found").text
    assert "100 concepts of 400 rows in the layer Flatten" in found
    assert "23 err more than the rest: concept 99" in found
    assert "99 % wrong against 30 %" in found
    assert browser.get_log("browser") == []


def test_bubbles_lie_on_the_map_and_hardly_upon_each_other(browser, tmp_path):
    """Rows of 30 concepts in five families, of sizes that differ."""
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(300, 1, 8, 8, generator=generator)
    model = torch.nn.Flatten()
    rdr = RelaxedDecisionRegion(model, model, threshold="median")
    rdr = rdr.fit(data, show_progress=False)
    concepts = []
    for number in range(30):
        region = rdr.attribute_members([number], 5, 4, show_progress=False)[0]
        family = torch.arange(number % 5 * 60, number % 5 * 60 + 60)
        members = family[torch.randperm(60, generator=generator)[:45]].sort().values
        rows = torch.arange(300)[: 1 + number % 7]
        region = replace(region, members=members)
        concepts.append(Concept(region, rows, members[:4], 0.01))
    numbers = torch.zeros(300, dtype=torch.int64)
    found = Atlas(tuple(concepts), torch.arange(300), numbers, 0.9, rdr)
    write_atlas(tmp_path / "atlas.html", found, data, show_progress=False)
    browser.get((tmp_path / "atlas.html").as_uri())
    script = (
        "[...document.querySelectorAll('#map a')].map(one => [...one.getAttribute('transform')"
        ".match(/[\\d.]+/g).map(Number), +one.querySelector('circle').getAttribute('r')])"
    )
    left, top, radius = torch.tensor(run(browser, script)).T
    assert bool((left - radius > -0.1).all())
    assert bool((top - radius > -0.1).all())
    assert bool((left + radius < 1600.1).all())
    assert bool((top + radius < 1000.1).all())
    sizes = torch.tensor([len(one.rows) for one in concepts])
    assert bool((radius[sizes.argsort()].diff() >= 0).all())
    apart = torch.cdist(torch.stack([left, top], 1), torch.stack([left, top], 1))
    touching = radius[:, None] + radius
    others = ~torch.eye(30, dtype=torch.bool)
    assert bool((apart > 0.8 * touching)[others].all())
    # Those that share members lie nearer to each other than to the rest.
    same = (torch.arange(30)[:, None] - torch.arange(30)) % 5 == 0
    assert apart[same & others].mean() < 0.7 * apart[~same].mean()
    ends = run(
        browser,
        "[...document.querySelectorAll('#map line')].map(one => [one.dataset.ends,"
        " +one.getAttribute('x1'), +one.getAttribute('y2')])",
    )
    assert len(ends) > 30
    for both, x, y in ends:
        first, second = map(int, both.split())
        assert (x, y) == (
            pytest.approx(float(left[first])),
            pytest.approx(float(top[second])),
        )
    assert browser.get_log("browser") == []


def test_an_atlas_sorts_filters_and_searches(browser, atlas_page):
    from selenium.webdriver.common.keys import Keys

    browser.get(atlas_page)
    choose(browser, "sort", "highest error rate")
    assert concepts_shown(browser) == list(range(N_CONCEPTS))[::-1]
    choose(browser, "sort", "most rows")
    rows = [1 + number % 4 for number in concepts_shown(browser)]
    assert rows == sorted(rows, reverse=True)
    choose(browser, "sort", "order of the atlas")
    choose(browser, "errs", "more than the rest")
    erring = [number for number in range(0, N_CONCEPTS, 3) if number > 30]
    assert concepts_shown(browser) == erring
    choose(browser, "label", HOSTILE[1])
    assert concepts_shown(browser) == [number for number in erring if number % 2]
    assert len(browser.find_elements("css selector", "#map a.out")) == N_CONCEPTS - 12
    browser.find_element("id", "rows").send_keys("4")
    assert concepts_shown(browser) == [one for one in erring if one % 4 == 3]
    browser.find_element("css selector", "button[type=reset]").click()
    every = f"{N_CONCEPTS} of {N_CONCEPTS} concepts shown"
    status = "document.getElementById('count').textContent"
    assert waited(browser, status, every) == every
    choose(browser, "significance", "not significant")
    assert concepts_shown(browser) == list(range(1, N_CONCEPTS, 3))
    choose(browser, "significance", "all")
    browser.find_element("id", "find").send_keys("folder/107")
    assert concepts_shown(browser) == [7]
    # A link to a concept that is hidden shows it.
    browser.execute_script("location.hash = '#concept-3'")
    assert waited(browser, status, every) == every
    browser.find_element("id", "find").send_keys(Keys.ESCAPE)
    assert browser.get_log("browser") == []


def test_pictures_open_larger_and_arrows_go_on(browser, atlas_page):
    from selenium.webdriver.common.keys import Keys

    browser.get(atlas_page)
    first = browser.find_element("css selector", "#concept-3 button.t")
    browser.execute_script("arguments[0].focus()", first)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    dialog = browser.find_element("id", "large")
    assert dialog.is_displayed()
    name = browser.find_element("id", "large-name")
    assert name.text == "folder/003.png"
    said = browser.find_element("id", "large-said").text
    assert said == f"row 3 · label {HOSTILE[1]}"
    larger = "document.getElementById('large-picture').offsetWidth"
    assert run(browser, larger) > 3 * first.size["width"]
    for key, wanted in ((Keys.ARROW_RIGHT, 103), (Keys.ARROW_LEFT, 3)):
        browser.switch_to.active_element.send_keys(key)
        assert name.text == f"folder/{wanted:03}.png"
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)  # and around
    assert name.text == "folder/303.png"
    assert browser.find_element("id", "large-place").text == "4 of 4"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert run(browser, "document.activeElement.dataset.i") is not None
    # Tab goes from list to list, not through every picture.
    stops = run(
        browser,
        "[...document.querySelectorAll('#concept-3 .tiles button.t')]"
        ".map(one => one.tabIndex)",
    )
    assert stops == [0, -1, -1, -1]
    browser.execute_script("document.querySelector('#map a').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert run(browser, "location.hash") == "#concept-0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_atlas_has_contrast_in_light_and_dark(browser, atlas_page, scheme):
    check_contrast(
        browser, atlas_page, scheme, ("body", ".note", "article h2", "a[href]", "dt")
    )


@pytest.fixture(scope="module")
def errors_page(tmp_path_factory):
    """The errors of a classifier, its concepts, and some errors explained."""
    model, images, labels = misled()
    rdr = RelaxedDecisionRegion(model, model[1], threshold="median")
    rdr.fit(images, keep_features=True, show_progress=False)
    tested, classes, _ = marked(400, 1)
    # Half of the errors without a mark, so that there are groups of several outcomes.
    classes = torch.where(torch.arange(400) % 15 == 0, 1 - classes, classes)
    path = tmp_path_factory.mktemp("errors") / "errors.html"
    (found,) = write_report(
        path,
        rdr,
        TensorDataset(tested, classes),
        Reference(images, labels, class_names=HOSTILE),
        query_names=[f"tested/{row:03}.png" for row in range(400)],
        n_members=6,
        show_progress=False,
    )
    return path.as_uri(), found


def ids_shown(browser, within):
    script = f"[...document.querySelectorAll('#{within} article')]"
    return run(browser, f"{script}.filter(one => !one.hidden).map(one => one.id)")


def test_errors_open_quickly_and_in_words(browser, errors_page):
    page, found = errors_page
    browser.get(page)
    assert waited(browser, "document.readyState", "complete") == "complete"
    loaded = quickest(browser)
    assert loaded < 2
    assert len(found) > 1
    words = browser.find_element("css selector", ".found").text
    assert f"400 inputs, {len(found.rows)} errors" in words
    browser.find_element("css selector", "ul.found a").click()
    assert run(browser, "location.hash").startswith("#group-")
    assert run(browser, "document.scripts.length") == 1
    assert run(browser, "document.querySelectorAll('[onclick]').length") == 0
    assert browser.get_log("browser") == []


def test_error_groups_sort_and_filter_alone(browser, errors_page):
    page, found = errors_page
    browser.get(page)
    every = [f"group-{number}" for number in range(len(found))]
    queries, concepts = ids_shown(browser, "queries"), ids_shown(browser, "concepts")
    assert ids_shown(browser, "groups") == every
    choose(browser, "group-sort", "smallest p")
    by_p = sorted(range(len(found)), key=lambda one: found[one].errors.p_value)
    assert ids_shown(browser, "groups") == [f"group-{number}" for number in by_p]
    choose(browser, "group-sort", "fewest reference rows")
    by_rows = sorted(range(len(found)), key=lambda one: len(found[one].reference))
    assert ids_shown(browser, "groups") == [f"group-{number}" for number in by_rows]
    choose(browser, "group-sort", "most errors")
    choose(browser, "group-prediction", HOSTILE[0])
    taken = [n for n, one in enumerate(found) if 0 in one.predictions]
    assert ids_shown(browser, "groups") == [f"group-{number}" for number in taken]
    rows = (
        "[...document.querySelectorAll('tr[data-for^=group]')].map(one => one.hidden)"
    )
    assert run(browser, rows) == [n not in taken for n in range(len(found))]
    least = len(found[0].rows)
    browser.find_element("id", "group-errors").send_keys(str(least))
    large = [n for n in taken if len(found[n].rows) >= least]
    assert ids_shown(browser, "groups") == [f"group-{number}" for number in large]
    status = browser.find_element("id", "group-count").text
    assert status == f"{len(large)} of {len(found)} groups shown"
    browser.find_element("css selector", "#group-filters [type=reset]").click()
    name = f"tested/{int(found[1].rows[0]):03}"
    browser.find_element("id", "group-find").send_keys(name)
    assert ids_shown(browser, "groups") == ["group-1"]
    # The other galleries have controls of their own.
    assert ids_shown(browser, "queries") == queries
    assert ids_shown(browser, "concepts") == concepts
    choose(browser, "concept-sort", "most rows")
    sizes = (
        "[...document.querySelectorAll('#concepts article')].map(a => +a.dataset.rows)"
    )
    assert run(browser, sizes) == sorted(run(browser, sizes), reverse=True)
    choose(browser, "significance", "significant")
    assert ids_shown(browser, "groups") == ["group-1"]
    column = browser.find_element("xpath", "//th[contains(., 'Reference rows')]/button")
    column.click()
    counts = (
        "[...document.querySelectorAll('tr[data-for^=group]')]"
        ".map(row => +row.cells[row.cells.length - 1].textContent)"
    )
    assert run(browser, counts) == sorted(run(browser, counts))
    assert browser.get_log("browser") == []


def test_errors_enlarge_and_show_all_from_the_keyboard(browser, errors_page):
    from selenium.webdriver.common.keys import Keys

    page, found = errors_page
    browser.get(page)
    browser.find_element("css selector", "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the error groups"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert run(browser, "document.activeElement.id") == "groups"
    more = browser.find_element("css selector", "#group-0 .more")
    assert more.text == f"Show all {len(found[0].rows)}"
    browser.execute_script("arguments[0].focus()", more)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    pictures = "#group-0 .tiles:first-of-type button.t"
    assert len(browser.find_elements("css selector", pictures)) == len(found[0].rows)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.find_element("id", "large").is_displayed()
    for row in found[0].rows[:3].tolist():
        name = browser.find_element("id", "large-name").text
        assert name == f"tested/{row:03}.png"
        said = browser.find_element("id", "large-said").text
        assert said.startswith("label ")
        assert "wrongly predicted" in said
        browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    # One switch shows where things lie, in all galleries.
    veiled = "document.body.classList.contains('veiled')"
    browser.execute_script("document.getElementById('concept-veils').click()")
    assert run(browser, veiled)
    assert browser.find_element("id", "group-veils").is_selected()
    browser.execute_script("document.getElementById('group-veils').click()")
    assert not run(browser, veiled)
    # What is explained is linked, also when filters hide it.
    choose(browser, "significance", "not tested")
    assert ids_shown(browser, "queries") == []
    browser.execute_script(
        "document.querySelector('#group-0 a[href^=\"#query\"]').click()"
    )
    shown = "!document.querySelector(location.hash).hidden"
    assert waited(browser, shown, True)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_errors_have_contrast_in_light_and_dark(browser, errors_page, scheme):
    selectors = (
        "body",
        ".note",
        "#groups h3",
        "#groups .verdict",
        "article a[href]",
        "th",
    )
    check_contrast(browser, errors_page[0], scheme, selectors)


@pytest.mark.parametrize("which", ["page", "atlas_page", "errors_page"])
def test_they_fit_a_phone(browser, which, request):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    found = request.getfixturevalue(which)
    browser.get(found if isinstance(found, str) else found[0])
    assert run(browser, "document.documentElement.scrollWidth") <= 390
    # Each control stays beside its label.
    apart = run(
        browser,
        "[...document.querySelectorAll('.filters .pair')].map(one => Math.abs("
        "one.children[0].getBoundingClientRect().top"
        " - one.children[1].getBoundingClientRect().top))",
    )
    assert max(apart) < 12
    browser.execute_script("document.querySelector('article button.t').click()")
    left, right = run(
        browser,
        "[document.getElementById('large').getBoundingClientRect()]"
        ".map(one => [one.left, one.right])[0]",
    )
    assert left >= 0
    assert right <= 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
