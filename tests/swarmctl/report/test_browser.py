"""The page in a real browser: it fits, axe-core finds no fault, the keyboard is enough, and it refreshes itself."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.node_files import NodeFiles
from swarmctl.report import server
from swarmctl.report.page import build
from swarmctl.report.report_data import PageData
from tests.support.browser import Browser, browser, found
from tests.support.report_server import served
from tests.support.reported_nodes import reported_node, write_events

pytestmark = [pytest.mark.slow, pytest.mark.skipif(found() is None, reason="needs Chromium: apt install chromium")]

AXE = resources.files("axe_core_python").joinpath("axe.min.js")
FLAT = (
    "document.head.append(Object.assign(document.createElement('style'), {textContent: '.scroll {background: none}'}))"
)
"""Hides the tables' shadows: axe-core measures no contrast on gradients."""
FAULTS = """axe.run(document, {resultTypes: ['violations']}).then(found =>
  found.violations.map(each => [each.id, each.nodes.length, each.nodes[0].html, each.nodes[0].failureSummary]))"""
FOCUSED = """(() => {
  const each = document.activeElement, box = each.getBoundingClientRect(), style = getComputedStyle(each);
  return {tag: each.tagName, id: each.id, text: each.textContent.slice(0, 40), outline: style.outlineStyle,
          seen: box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight};
})()"""
ATTEMPTS = 400


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    with browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


def saved(tmp_path: Path, *nodes: NodeFiles) -> str:
    """Write a report and return its address."""
    path = tmp_path / "page.html"
    path.write_text(build.page(PageData(nodes, 6).read()), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("width", "dark"), [(1600, False), (400, True)])
def test_the_page_fits_and_axe_finds_nothing(tab: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    # The narrow page has several nodes, the wide one texts that attack it.
    names = ("one", "two") if dark else ("one",)
    tab.do("Page.setBypassCSP", enabled=True)  # axe-core is a script of the test
    tab.open(saved(tmp_path, *(reported_node(name, rounds=4, evil=not dark) for name in names)), width=width, dark=dark)
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(19, 21, 25)" if dark else "rgb(253, 253, 252)"
    )
    tab.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert tab.run("document.documentElement.scrollWidth") == width
    tab.run(f"{AXE.read_text(encoding='utf-8')}; {FLAT}; null")
    assert tab.run(FAULTS) == []
    tab.do("Page.setBypassCSP", enabled=False)


def test_hostile_texts_do_nothing_and_nothing_is_loaded(tab: Browser, tmp_path: Path) -> None:
    address = saved(tmp_path, reported_node(evil=True))
    tab.events.clear()
    tab.open(address)
    assert tab.run("document.title") == "maths – swarmctl report"
    assert tab.run("document.scripts.length + document.images.length") == 0
    assert tab.run("document.body.innerText.includes('\\\\x1b[31mred')")
    requested = [
        each["params"]["request"]["url"] for each in tab.events if each["method"] == "Network.requestWillBeSent"
    ]
    assert requested == [address]
    assert faults(tab) == []
    # Even a script that got into the page would not run.
    tab.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))"
    )
    assert tab.run("document.title") == "maths – swarmctl report"


def test_the_keyboard_is_enough(tab: Browser, tmp_path: Path) -> None:
    tab.open(saved(tmp_path, reported_node()), width=1000)
    tab.press("Tab", 9)
    first = tab.run(FOCUSED)
    assert (first["text"], first["seen"]) == ("Skip to the report", True)
    tab.press("Enter", 13)
    assert tab.run("location.hash") == "#main"
    seen: dict[str, dict[str, Any]] = {}
    for _ in range(ATTEMPTS):
        tab.press("Tab", 9)
        focused = tab.run(FOCUSED)
        if focused["tag"] == "BODY":
            break
        assert focused["seen"], focused
        assert focused["outline"] != "none", focused
        seen[focused["id"] or focused["text"]] = focused
        if focused["id"] == "accuracy-chart-summary":
            assert not tab.run("document.getElementById('accuracy-chart').open")
            tab.press("Enter", 13)
            assert tab.run("document.getElementById('accuracy-chart').open")
    summaries = tab.run("document.querySelectorAll('summary').length")
    assert sum(each["tag"] == "SUMMARY" for each in seen.values()) == summaries > 4


def test_a_served_page_refreshes_itself(tab: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FRESH_S", 0.0)
    monkeypatch.setattr(server, "_BUSY", 1.0)
    monkeypatch.setattr(build, "_REFRESH_S", 0.1)
    files = reported_node(rounds=3)
    rounds = "document.querySelector('#costs figcaption').innerText"
    with served(files) as port:
        tab.events.clear()
        tab.open(f"http://127.0.0.1:{port}/")
        assert "3 rounds" in tab.run(rounds)
        tab.run("document.getElementById('accuracy-chart').open = true")
        write_events(files, 2, first=3)
        assert tab.run(changed(rounds, "5 rounds"))
        assert tab.run("document.getElementById('accuracy-chart').open")
        assert faults(tab) == []
    live = "document.getElementById('live').textContent"
    assert tab.run(changed(live, "no longer refreshed"))


def changed(what: str, wanted: str) -> str:
    """Return a script that waits until a text is there. The test's time limit ends it."""
    pause = "await new Promise(done => setTimeout(done, 20))"
    return f"(async () => {{ while (!{what}.includes('{wanted}')) {pause}; return true }})()"


def faults(tab: Browser) -> list[dict[str, Any]]:
    """Return the errors that the tab reported."""
    return [each for each in tab.events if each["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
