"""The HTML report in a real browser: it loads nothing, draws everything, and is used by mouse, keyboard and phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyserini_llm_sparse.regressions.outcome.quantities import PLOTTED
from pyserini_llm_sparse.regressions.report.page import rendered
from pyserini_llm_sparse.regressions.report.page_data import PageData, page_data
from tests.chromium import Browser, chromium_program
from tests.report_results import HOSTILE, made_up_result

LOOK = Path(__file__).with_name("look.js").read_text(encoding="utf-8")
PHONE = 360  # pixels
LEAST_CONTRAST = 4.5
OPENED = 'button.row[aria-expanded="true"]'


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium_program()
    if program is None:
        pytest.skip("NOT TESTED IN A BROWSER: no Chromium found; install one, or name its program in CHROMIUM")
    with Browser.started(program, tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PageData:
    return page_data(made_up_result(tmp_path_factory.mktemp("result")))


@pytest.fixture(scope="module")
def page(data: PageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(rendered(data), encoding="utf-8", newline="\n")
    return path


def asked(browser: Browser, question: str) -> Any:
    """Return what a function of look.js tells of the page."""
    return browser.evaluate(f"(() => {{ {LOOK} return look.{question}; }})()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint_and_asks_for_nothing(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, scheme=scheme)
    browser.click("button.row")
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.evaluate("performance.getEntriesByType('resource').length") == 0


def test_its_policy_stops_what_would_be_loaded(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://example.org/image.png'}))")
    assert [told for told in browser.complaints() if "Content Security Policy" in told]


@pytest.mark.parametrize("width", [1280, PHONE])
def test_every_plot_is_drawn_and_no_label_covers_another(
    browser: Browser, page: Path, data: PageData, width: int
) -> None:
    browser.open(page, width=width)
    seen = set()
    for place in range(len(data["measures"])):
        for section in range(len(data["collections"])):
            browser.click(f"#collection-{section} .measures button:nth-child({place + 1})")
        for plot in asked(browser, "plots()"):
            collection = data["collections"][plot["collection"]]
            seen.add((collection["name"], plot["measure"], plot["cost"]))
            known = sorted(system["name"] for system in collection["systems"] if system["costs"][plot["cost"]])
            assert sorted(name for name, _ in plot["marks"]) == sorted(name for name, _ in plot["labels"]) == known
            for box in (box for _, box in (*plot["texts"], *plot["marks"])):
                assert within(box, plot["frame"]), f"{plot['measure']} against {plot['cost']}: something sticks out"
            boxes = [box for _, box in plot["labels"]]
            assert not [1 for number, box in enumerate(boxes) for other in boxes[:number] if overlap(box, other)]
    assert len(seen) == len(data["collections"]) * len(data["measures"]) * len(PLOTTED)


def within(box: list[float], frame: list[float]) -> bool:
    return (
        box[0] >= frame[0] - 0.5
        and box[1] >= frame[1] - 0.5
        and box[2] <= frame[2] + 0.5
        and box[3] <= frame[3] + 0.5
        and box[2] > box[0]
        and box[3] > box[1]
    )


def overlap(one: list[float], other: list[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def check_opened(browser: Browser, data: PageData) -> None:
    """The one query that is open shows all systems, and scores of documents whose terms add up."""
    shown: dict[str, Any] = asked(browser, "opened()")
    assert shown["visible"]
    collection = data["collections"][0]
    query = next(one for one in collection["queries"] if shown["label"] == f"Query {one['id']}")
    assert [row[0] for row in shown["systems"]] == [system["name"] for system in collection["systems"]]
    for row, values in zip(shown["systems"], query["values"], strict=True):
        numbers = [float(cell) for cell in [cell for cell in row[1:] if cell][: len(values)]]
        assert numbers == pytest.approx(values, abs=6e-4)
    check_explained(shown, query["explained"]["csplade"], 0)


def check_explained(shown: dict[str, Any], explained: dict[str, Any], error: float) -> None:
    """The terms of the query are shown, and those of its documents, whose products add up to the scores."""
    assert shown["terms"] == [f"{'' if own else '+ '}{term}" for term, _, own in explained["terms"]]
    assert len(shown["documents"]) == len(explained["documents"]) == 4
    for document, expected in zip(shown["documents"], explained["documents"], strict=True):
        assert expected["id"] in document["title"] and document["sum"] == "= Lucene’s score"
        *rest, total = document["foot"]
        assert sum(document["products"]) + sum(rest) == pytest.approx(total, rel=error, abs=0)
        assert total == pytest.approx(expected["score"], rel=error, abs=0)
        assert expected["score"] == pytest.approx(expected["run_score"], rel=1e-9)


def test_another_system_is_explained_by_its_button(browser: Browser, page: Path, data: PageData) -> None:
    browser.open(page)
    browser.click("button.row")
    browser.click(f"{OPENED} + * .switch button:first-child")
    shown = asked(browser, "opened()")
    query = next(one for one in data["collections"][0]["queries"] if shown["label"] == f"Query {one['id']}")
    assert next(iter(query["explained"])) == "bm25"
    check_explained(shown, query["explained"]["bm25"], 1e-3)  # shown with four digits


def test_a_query_opens_by_a_click_and_closes_by_another(browser: Browser, page: Path, data: PageData) -> None:
    browser.open(page)
    assert browser.evaluate(f"document.querySelector('{OPENED}')") is None
    browser.click("button.row")
    check_opened(browser, data)
    browser.click("button.row")
    assert browser.evaluate(f"document.querySelector('{OPENED}')") is None
    assert browser.evaluate("document.querySelector('.panel').checkVisibility()") is False


@pytest.mark.parametrize("key", ["Enter", " "])
def test_a_query_opens_by_keyboard_and_escape_closes_it(browser: Browser, page: Path, data: PageData, key: str) -> None:
    browser.open(page)
    browser.evaluate("document.querySelector('.controls input').focus()")
    browser.press("Tab")
    for arrow in ("ArrowDown", "ArrowDown", "ArrowUp", "Home", "ArrowDown"):
        browser.press(arrow)
    focused = "[...document.querySelectorAll('#collection-0 button.row')].indexOf(document.activeElement)"
    assert browser.evaluate(focused) == 1
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press(key)
    check_opened(browser, data)
    browser.press("Escape")
    assert browser.evaluate(f"document.querySelector('{OPENED}')") is None
    assert browser.evaluate(focused) == 1


def test_queries_are_found_filtered_and_ordered(browser: Browser, page: Path, data: PageData) -> None:
    browser.open(page)
    losses = asked(browser, "rows()")
    assert len(losses) == len(data["collections"][0]["queries"])
    asked(browser, 'change("Order", "win")')
    wins = asked(browser, "rows()")
    assert differences(losses) == sorted(differences(losses)) and differences(wins) == differences(losses)[::-1]
    asked(browser, 'change("Show", "worse")')
    assert differences(asked(browser, "rows()")) == [one for one in differences(wins) if one < 0]
    asked(browser, 'change("Show", "all")')
    asked(browser, 'change("System", "1")')  # bm25-rm3
    of_second = sorted(query["values"][1][0] for query in data["collections"][0]["queries"])
    assert sorted(float(row[2]) for row in asked(browser, "rows()")) == pytest.approx(of_second, abs=6e-4)
    asked(browser, 'change("Find", "q017")')
    assert len(asked(browser, "rows()")) == 1
    asked(browser, 'change("Find", "no such words")')
    assert asked(browser, "rows()") == []


def differences(rows: list[list[str]]) -> list[float]:
    return [float(row[3].replace("▲ +", "").replace("▼ −", "-").replace("= ", "")) for row in rows]


def test_text_of_queries_is_shown_as_text(browser: Browser, page: Path, data: PageData) -> None:
    browser.open(page)
    assert HOSTILE in [row[0] for row in asked(browser, "rows()")]
    assert browser.evaluate("document.title") == data["title"]
    assert browser.evaluate("document.querySelectorAll('img, b, of').length") == 0


def test_the_page_is_never_wider_than_a_phone(browser: Browser, page: Path, data: PageData) -> None:
    browser.open(page, width=PHONE, height=700)
    assert browser.evaluate("document.scrollingElement.scrollWidth") == PHONE
    browser.click("button.row")
    check_opened(browser, data)
    browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.evaluate("document.scrollingElement.scrollWidth") == PHONE
    assert browser.evaluate(
        "[...document.querySelectorAll('.scrolls')].some((one) => one.scrollWidth > one.clientWidth)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, scheme=scheme)
    browser.click("button.row")
    found = asked(browser, "contrasts()")
    assert len(found) > 500
    assert [one for one in found if one[0] < LEAST_CONTRAST] == []
    is_dark = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(21, 23, 27)"
    assert is_dark == (scheme == "dark")


def test_without_scripts_the_tables_and_plots_are_there(browser: Browser, page: Path, data: PageData) -> None:
    browser.open(page, scripts=False)
    text = browser.evaluate("document.body.innerText")
    for collection in data["collections"]:
        for system in collection["systems"]:
            assert f"{system['scores']['nDCG@10']['mean']:.4f}" in text
    assert "python -m pyserini.encode" in text and "▼ lost" in text
    assert browser.evaluate("document.querySelectorAll('button.row').length") == 0
    plots = [(plot["measure"], plot["cost"]) for plot in asked(browser, "plots()")]
    assert len(plots) == len(data["collections"]) * len(data["measures"]) * len(PLOTTED)
