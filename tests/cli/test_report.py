"""``puller report``: the figures on its page, and the page in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from msgspec import structs
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

import puller
from puller.repository.points import new_id
from puller.repository.records.proofs import Proof
from puller.units import format_bytes
from tests.cli.conftest import CommandLine
from tests.lab.archive import make_point

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
NIGHTLY = {"job": "nightly", "interval": "1d"}
EVIL = "<script>alert(1)</script>"
DRIVER = Path("/usr/bin/chromedriver")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """A headless Chromium that can open only files, and records the errors of the page."""
    if not DRIVER.exists():
        pytest.skip("this distribution has no package with Chromium")
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path / 'chromium'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def fleet(repository: puller.Repository, folder: Path, monkeypatch: pytest.MonkeyPatch) -> puller.Repository:
    """web1 is on time and proven, db1 is late, one has a name that is HTML."""
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    for age in (3, 2, 1):
        made = make_point(repository, {"vda": b"web%d" % age}, "web1", NOW - age * DAY, NIGHTLY, "kvm1")
    repository.proofs.put((made.uuid, made.point), Proof(NOW, "proven", "web1", "kvm1", "agent", 20.0))
    make_point(repository, {"vda": b"db1" * 999}, "db1", NOW - 5 * DAY, NIGHTLY, "kvm2")
    make_point(repository, {"vda": b"odd", "vdb": b"gone"}, EVIL, NOW - 2 * DAY, {}, "kvm1")
    make_point(repository, {"vda": b"odd"}, EVIL, NOW - DAY, {}, "kvm1")
    return repository


@pytest.fixture
def page(cli: CommandLine, fleet: puller.Repository, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    assert cli("report", "--html", str(path), "--days", "14", "--price", "0.02 EUR").code == 0
    return path


def opened(browser: Chrome, page: Path) -> Chrome:
    browser.get(page.as_uri())
    return browser


def names(browser: Chrome) -> list[str]:
    rows = browser.find_elements(By.CSS_SELECTOR, "#list tbody tr")
    return [row.find_element(By.TAG_NAME, "th").text.split("\n")[0] for row in rows if row.is_displayed()]


def cells(browser: Chrome, name: str) -> list[str]:
    (row,) = browser.find_elements(By.XPATH, f"//table[@id='list']//tr[th[starts-with(., '{name}')]]")
    return [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]


def test_the_browser_has_nothing_to_complain_of(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert names(browser) == ["db1", EVIL, "web1"], "a name is never markup"


def test_nobody_who_cannot_see_it_is_left_out(browser: Chrome, page: Path) -> None:
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        found = Axe().run(opened(browser, page))["violations"]
        serious = [one["id"] for one in found if one["impact"] in {"serious", "critical"}]
        assert serious == [], json.dumps([one for one in found if one["id"] in serious], indent=1)


def test_the_figures_are_those_of_stats_and_points(
    browser: Chrome, page: Path, cli: CommandLine, fleet: puller.Repository
) -> None:
    opened(browser, page)
    told = {"web1": ("on time", "1 d ago", "1 d old"), "db1": ("late", "5 d ago", "never")}
    costs = {cost.domain: cost for cost in puller.stats(fleet).costs}
    for name, said in told.items():
        host, state, last, proven, days, _, points, stored = cells(browser, name)
        cost = costs[name]
        assert host == cost.host
        assert points == str(cost.points)
        assert stored.split("\n")[0] == format_bytes(cost.added_bytes)
        assert days == ""
        assert (state, last, proven) == said
    total = sum(cost.added_bytes for cost in costs.values())
    text = browser.find_element(By.TAG_NAME, "main").text
    assert f"3 machines, {len(puller.list_points(fleet))} points. They added {format_bytes(total)}" in text
    assert f"{total / (1 << 30) * 0.02:,.2f} EUR a month" in text


def test_the_filter_and_the_order(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    field = browser.find_element(By.ID, "filter")
    field.send_keys("kvm1 web")
    assert names(browser) == ["web1"]
    assert browser.find_element(By.ID, "count").text == "1 of 3"
    field.clear()
    field.send_keys(" ")
    Select(browser.find_element(By.ID, "which")).select_by_value("late")
    assert names(browser) == ["db1"]
    Select(browser.find_element(By.ID, "which")).select_by_value("wrong")
    assert names(browser) == [EVIL]
    Select(browser.find_element(By.ID, "which")).select_by_value("unproven")
    assert names(browser) == ["db1", EVIL]
    Select(browser.find_element(By.ID, "which")).select_by_value("")
    head = browser.find_element(By.XPATH, "//th[.='Points']")
    head.find_element(By.TAG_NAME, "button").click()
    assert names(browser)[-1] == "web1"
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element(By.TAG_NAME, "button").click()
    assert names(browser)[0] == "web1"


@pytest.mark.parametrize("width", [360, 700, 1260, 1400])
def test_no_screen_has_to_be_scrolled_sideways(browser: Chrome, page: Path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    opened(browser, page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_what_looks_wrong_stands_first(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    (told,) = browser.find_elements(By.CSS_SELECTOR, "ul.wrong li")
    assert told.text.startswith(f"{EVIL}, 2")
    assert told.text.endswith(": disk vdb is not in the point any more")


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", text)
    assert page.stat().st_mode & 0o777 == 0o644
    assert list(page.parent.glob(".report*")) == []


def test_the_document_has_what_the_page_shows(cli: CommandLine, fleet: puller.Repository) -> None:
    answer = cli("report", "--json", "--days", "7")
    assert answer.code == 0
    db1, _, web1 = answer.document["domains"]
    assert (db1["late"], web1["late"]) == (True, False)
    assert web1["states"] == ["unknown"] * 3 + ["kept"] * 3 + ["unknown"]
    assert (web1["proven"], web1["failed"], web1["copied"]) == ([5], [], [])
    assert db1["states"] == ["unknown", "kept", "late", "late", "late", "late", "late"]
    assert web1["places"] == [{"disk": "vda", "part_bytes": 64 << 20, "comparisons": 2, "changed": [2]}]
    assert (web1["locked_until"], web1["lock_ends_soon"]) == (None, False)
    alarms = [[alarm["sign"] for alarm in one["alarms"]] for one in answer.document["domains"]]
    assert alarms == [[], ["size"], []]
    assert [host["silent"] for host in answer.document["hosts"]] == [False, True]


def test_locks_that_end_soon(
    cli: CommandLine, browser: Chrome, fleet: puller.Repository, tmp_path: Path
) -> None:
    for domain, left in (("web1", 20 * DAY), ("db1", DAY)):
        newest = puller.list_points(fleet, domain)[-1]
        locked = structs.replace(newest, point=new_id(NOW), time=NOW - 9 * DAY, locked_until=NOW + left)
        fleet.points.commit(locked)
    path = tmp_path / "report.html"
    document = cli("report", "--html", str(path), "--json").document
    ends = {one["domain"]: one["lock_ends_soon"] for one in document["domains"]}
    assert ends == {"web1": False, "db1": True, EVIL: False}
    opened(browser, path)
    tiles = browser.find_element(By.CSS_SELECTOR, "ul.tiles").text.replace("\n", " ")
    assert "1 whose locks end soon" in tiles
    Select(browser.find_element(By.ID, "which")).select_by_value("lock")
    assert names(browser) == ["db1"]


def test_a_machine_in_two_repositories_counts_once(
    cli: CommandLine, fleet: puller.Repository, tmp_path: Path
) -> None:
    other = puller.create_repository(str(tmp_path / "other"))
    for point in (*puller.list_points(fleet, "db1"), puller.list_points(fleet, "web1")[0]):
        other.points.commit(point)
    words = ("--also", str(tmp_path / "other"))
    path = tmp_path / "report.html"
    assert f"{path}: 3 machines, 2 late, " in cli("report", "--html", str(path), *words).out
    tiles = re.sub(r"<[^>]*>|\s+", " ", path.read_text().partition('class="tiles"')[2].partition("</ul>")[0])
    assert re.findall(r"(\d+) +(machines|late|silent hosts)", tiles) == [
        ("3", "machines"),
        ("2", "late"),
        ("1", "silent hosts"),
    ]
    hosts = cli("report", "--json", *words).document["hosts"]
    counted = [(host["host"], host["machines"], host["late"], host["silent"]) for host in hosts]
    assert counted == [("kvm1", 2, 0, False), ("kvm2", 1, 1, True)], "an old copy says nothing about its host"


def test_several_repositories_on_one_page(
    cli: CommandLine, browser: Chrome, fleet: puller.Repository, tmp_path: Path
) -> None:
    other = puller.create_repository(str(tmp_path / "other"))
    (point,) = puller.list_points(fleet, "db1")
    other.points.commit(point)
    document = cli("report", "--json", "--also", str(tmp_path / "other"), "--days", "7").document
    assert [one["points"] for one in document["repositories"]] == [6, 1]
    copied = [one["copied"] for one in document["domains"] if one["domain"] == "db1"]
    assert copied == [[1], [1]], "five days ago"
    path = tmp_path / "report.html"
    cli("report", "--html", str(path), "--also", str(tmp_path / "other"))
    opened(browser, path)
    browser.find_element(By.ID, "filter").send_keys(str(tmp_path / "other"))
    assert names(browser) == ["db1"], "each line names its repository"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "report needs --html FILE or --json"),
        (["--html", "/nowhere/there/page.html"], "cannot write /nowhere/there/page.html"),
        (["--json", "--price", "much"], "invalid price 'much'"),
        (["--json", "--price", "-1"], "invalid price '-1'"),
        (["--json", "--days", "0"], "--days"),
    ],
)
def test_what_is_refused(cli: CommandLine, fleet: puller.Repository, arguments: list[str], text: str) -> None:
    answer = cli("report", *arguments)
    assert answer.code in {1, 2}
    assert text in answer.err
