"""The page: whole, without anything from elsewhere, foreign text escaped, and colors that can be read."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hivemind_exp.tasks.base import Score
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.report.page import build, charts, scales
from swarmctl.report.page.charts import Curve, Point
from swarmctl.report.report_data import PageData
from tests.support.journals import bare_node, books, prompt, sent
from tests.support.reported_nodes import SECRET, quiet_node, reported_node

VOID = {"meta", "br", "img", "link", "input", "hr", "wbr"}


class Reader(HTMLParser):
    """Collects a page's elements. Fails if one is not closed where it should be."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def written(tmp_path: Path, *arguments: str) -> str:
    assert cli.run(["report", *arguments, "-o", str(tmp_path / "page.html")]) == Exit.DONE
    return (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_shows_the_numbers_and_loads_nothing(tmp_path: Path) -> None:
    reported_node()
    page = written(tmp_path, "maths")
    reader = read(page)
    shown = reader.text.replace("\u00a0", " ")
    assert "Its accuracy on 200 held-out questions rose from 25 % (20–31) to 90 % (85–93)." in shown
    for figure in ("25 % → 90 %", "+65.0", "Reward terms", "Gradient by source", "train.learning_rate", "0.002"):
        assert figure in shown, figure
    assert "train.<wbr>learning_<wbr>rate" in page  # on a narrow screen, it is wrapped there
    assert re.search(r"format0\.30\.3exactly as requested", reader.text)
    names = {tag for tag, _ in reader.elements}
    assert names.isdisjoint({"script", "link", "iframe", "img", "object", "form", "base"})
    addresses = [
        value or "" for _, found in reader.elements for name, value in found.items() if name in ("href", "src")
    ]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    assert "url(" not in page
    assert "@import" not in page
    ids = [found["id"] for _, found in reader.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in addresses} <= set(ids)


def test_texts_from_elsewhere_stay_text(tmp_path: Path) -> None:
    reported_node(evil=True)
    page = written(tmp_path, "maths")
    reader = read(page)
    assert {tag for tag, _ in reader.elements}.isdisjoint({"script", "img"})
    assert not [name for _, found in reader.elements for name in found if name.startswith("on")]
    assert "</script><script>document.title='owned'</script>" in reader.text
    assert "\\x1b[31mred\\x1b[0m \\u202egnp.exe\\u200b" in reader.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e]", page)
    assert SECRET[:20] not in page
    assert "characters left out" in reader.text
    assert len(page) < 400_000
    policy = next(found["content"] for _, found in reader.elements if found.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy
    assert "unsafe" not in policy


@pytest.mark.slow
def test_several_nodes_are_side_by_side(tmp_path: Path) -> None:
    reported_node("one")
    reported_node("two", rounds=5)
    quiet_node("three")
    text = read(written(tmp_path, "one", "two", "three")).text
    assert "one, two and three" in text
    assert "Side by side" in text
    assert "two: Entropy" in text
    assert "swarmctl eval two --against one" in text
    assert "swarmctl eval three" not in text, "it has nothing to evaluate yet"
    assert re.search(r"game\.rounds8080–", text)


def test_a_node_without_a_history_has_a_page(tmp_path: Path) -> None:
    quiet_node("new")
    text = read(written(tmp_path, "new")).text
    assert "The node has not run yet." in text
    assert "None" not in text
    assert "No evaluation yet." in text
    assert "No optimizer step yet." in text
    assert "Nothing to measure yet: no round is finished." in text
    assert "swarmctl eval" not in text


def test_a_samples_format_is_that_of_the_text_beside_it(tmp_path: Path) -> None:
    with books(bare_node("maths")) as journal:
        asked = prompt("cc33" + "0" * 60)
        texts = ("Sure! <answer>tac</answer>", "<answer>tac</answer>", "Sure!")
        journal.api(0, asked, [sent(place, text) for place, text in enumerate(texts)], {})
        scores = {0: Score(1.0, True, "correct"), 1: Score(0.5, True, "close"), 2: Score(0.0, False, "no answer")}
        journal.score(0, asked, scores)
    text = read(written(tmp_path, "maths")).text
    converted = "In the requested format only after conversion for training, shown here as received."
    said = (converted, "In the requested format.", "Not in the requested format.")
    for shown, sentence in zip(texts, said, strict=True):
        assert re.search(rf"{re.escape(shown)}\s*Outcome [^I]*\. {re.escape(sentence)}", text), sentence


def test_a_relay_is_not_said_to_learn(tmp_path: Path) -> None:
    files = reported_node()
    record = json.loads(files.config.read_text())
    record["config"]["offload"]["kind"] = "relay"
    files.config.write_text(json.dumps(record))
    text = read(written(tmp_path, "maths")).text
    assert "A relay for spelling with openai:gpt-4o-mini, which generates and verifies but trains no model" in text


def test_the_default_file_is_replaced_only_if_it_is_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reported_node()
    for _ in range(2):
        assert cli.run(["report"]) == Exit.DONE
        assert capsys.readouterr().out.strip().endswith("swarmctl-report-maths.html")
    Path("swarmctl-report-maths.html").write_text("my notes")
    assert cli.run(["report"]) == Exit.CONFIGURATION
    assert "already exists" in capsys.readouterr().err
    assert cli.run(["report", "--yes"]) == Exit.DONE
    assert cli.run(["report", "-o", "swarmctl-report-maths.html"]) == Exit.CONFIGURATION
    assert "swarmctl report maths -o swarmctl-report-maths.html --yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (["nobody"], Exit.CONFIGURATION, "unknown node 'nobody'"),
        (["maths", "--json", "-o", "x.html"], Exit.USAGE, "--json prints the data instead of a page"),
        (["maths", "--serve", "-o", "x.html"], Exit.USAGE, "--serve writes no file"),
        (["maths", "--port", "8080"], Exit.USAGE, "--port needs --serve"),
        (["maths", "--serve", "8080", "--port", "8081"], Exit.USAGE, "two ports: --serve 8080 and --port 8081"),
        (["maths", "--serve", "70000"], Exit.USAGE, "invalid port: 70000. Use a whole number from 1 to 65535"),
        (["maths", "-o", "-", "--open"], Exit.USAGE, "--open needs a file"),
        (["maths", "-o", "missing/x.html"], Exit.CONFIGURATION, "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], code: Exit, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reported_node()
    assert cli.run(["report", *arguments]) == code
    captured = capsys.readouterr()
    if "--json" in arguments:
        assert cause in json.loads(captured.out)["error"]["message"]
    else:
        problem, following = captured.err.splitlines()
        assert problem.startswith("error: ")
        assert cause in problem
        assert following.startswith("  try: ")


@pytest.mark.parametrize("arguments", [["--serve", "8080"], ["--serve", "--port", "8080"], ["8080", "--serve"]])
@pytest.mark.parametrize("again", [[], ["--port", "8080"]])
def test_the_port_may_follow_serve(arguments: list[str], again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reported_node()
    asked: list[tuple[list[str], int]] = []

    def serve(data: PageData, port: int, **_: object) -> Exit:
        asked.append(([files.root.name for files in data.nodes], port))
        return Exit.DONE

    monkeypatch.setattr("swarmctl.report.server.serve", serve)
    assert cli.run(["report", "maths", *arguments, *again]) == Exit.DONE
    assert asked == [(["maths"], 8080)]


def test_a_page_on_standard_output_is_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    reported_node()
    assert cli.run(["report", "maths", "-o", "-"]) == Exit.DONE
    captured = capsys.readouterr()
    assert captured.out.startswith("<!doctype html>")
    assert captured.out.endswith("</html>\n")
    assert captured.err == ""


def colors(scheme: str) -> dict[str, str]:
    """Return the palette of the style sheet: the light one, or the dark one, which replaces most of it."""
    style = (Path(build.__file__).parent / "style.css").read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    text = light if scheme == "light" else dark.split("\n}\n")[0]
    return dict(re.findall(r"--([\w]+): (#[0-9a-f]{6});", text))


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colors (WCAG 2.2, "relative luminance")."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_and_line_has_enough_contrast(scheme: str) -> None:
    palette = colors(scheme)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    texts = ("text", "quiet", "link", "good", "bad", "warn")
    for text, ground in product(texts, ("ground", "card", "quote")):
        assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    for number, ground in product(range(charts.COLORS), ("card", "ground")):
        assert contrast(palette[f"c{number}"], palette[ground]) >= 3, number
    assert contrast(palette["axis"], palette["card"]) >= 3


def test_charts_are_xml_and_stay_inside_their_frame() -> None:
    points = tuple(Point(x, (-1) ** x * x, x - 30, x + 30) for x in range(100))
    many = [Curve("a", points, 0), Curve("b", points, 1)]
    for drawn in ([Curve('<"&>', points, 0)], [Curve("one", points[:1], 9)], many):
        for svg in (charts.lines(drawn, label='a "chart" <b>'), charts.shares(drawn, label="shares")):
            root = ElementTree.fromstring(svg)
            for path in root.iter("path"):
                numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
                assert all(0 <= number <= 400 for number in numbers)
    bar = charts.stack([charts.Part("a", 1.0, 0, "1 s"), charts.Part("b", 0.0, 1, "0 s")], label="bar")
    assert len(list(ElementTree.fromstring(bar).iter("rect"))) == 2


def test_axes_have_round_ticks() -> None:
    assert scales.ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert scales.ticks(1, 7, 8, whole=True) == [1, 2, 3, 4, 5, 6, 7]
    assert scales.ticks(0, 20, 8, whole=True) == [0, 5, 10, 15, 20]
    assert scales.domain([0.3, 87]) == (0, 100)
    assert scales.domain([-3.0, 2.0]) == (-4, 2)
    assert scales.domain([5.0, 5.0]) == (0, 6)
    assert scales.domain([]) == (0, 1)
    assert [scales.plain(value) for value in (0.12345, 12.0, 1234.5, 45_678, 2e6)] == [
        "0.123", "12", "1,234", "45.7 k", "2 M"
    ]  # fmt: skip


def test_the_style_sheet_uses_only_colors_of_the_palette() -> None:
    style = (Path(build.__file__).parent / "style.css").read_text(encoding="utf-8")
    used: set[Any] = set(re.findall(r"var\(--(\w+)\)", style))
    assert used - {"shade"} <= set(colors("light"))
    assert set(colors("light")) == set(colors("dark"))
    rules = style[style.index("* { box-sizing") :]
    assert not re.search(r"#[0-9a-f]{3,8}\b", rules)
