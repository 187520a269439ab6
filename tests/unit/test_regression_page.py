"""The HTML report holds what was found, loads nothing, and no text of a collection can become part of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyserini_llm_sparse.regressions.outcome.quantities import (
    PLOTTED,
    QUANTITIES,
    Quantity,
    bytes_shown,
    count_shown,
    milliseconds_shown,
    rate_shown,
    seconds_shown,
)
from pyserini_llm_sparse.regressions.outcome.results import CollectionResult, Result
from pyserini_llm_sparse.regressions.report import page_data as page_data_module
from pyserini_llm_sparse.regressions.report import page_queries
from pyserini_llm_sparse.regressions.report.markdown import report
from pyserini_llm_sparse.regressions.report.page import embedded, rendered, templates
from pyserini_llm_sparse.regressions.report.page_data import PageData, page_data
from pyserini_llm_sparse.regressions.report.plots import LINE, cost_plot, moved_apart
from tests.report_results import BROKEN, HOSTILE, RELEVANT, made_up_result


class Elements(HTMLParser):
    """Collects the elements of a page with their attributes, and the texts of those that hold some."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            continue

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return made_up_result(tmp_path_factory.mktemp("result"))


@pytest.fixture(scope="module")
def data(result: Result) -> PageData:
    return page_data(result)


@pytest.fixture(scope="module")
def text(data: PageData) -> str:
    return rendered(data)


def drawn(systems: list[Any], measure: str, quantity: Quantity) -> str:
    """A plot as the page draws it."""
    return str(templates().get_template("pictures.html").module.plot(cost_plot(systems, measure, quantity)))  # type: ignore[attr-defined]


def test_values_and_outcomes_of_queries_are_those_of_the_scores(result: Result, data: PageData) -> None:
    collection = data["collections"][0]
    for place, system in enumerate(collection["systems"]):
        for number, measure in enumerate(data["measures"]):
            mean = system["scores"][measure]["mean"]
            values = [query["values"][place][number] for query in collection["queries"]]
            assert np.mean(values) == pytest.approx(mean, abs=1e-4)
            if not system["is_baseline"]:
                baseline = collection["systems"][0]["scores"][measure]["mean"]
                assert np.mean(system["profiles"][measure]) == pytest.approx(mean - baseline, abs=1e-4)
                assert sum(system["outcomes"][measure]) == len(values)
    assert [query["id"] for query in collection["queries"]] == result.collections["first"].queries


def test_documents_are_named_with_their_grades_and_without_their_text(result: Result, data: PageData) -> None:
    query = data["collections"][0]["queries"][7]
    assert query["relevant"] == RELEVANT
    run = result.collections["first"].plan.run("csplade").read_text().splitlines()
    ranked = [line.split()[2] for line in run if line.startswith(f"{query['id']} ")]
    top = query["top"][[system["name"] for system in data["collections"][0]["systems"]].index("csplade")]
    assert [name for name, _ in top] == ranked[: len(top)]
    grades = [grade for one in data["collections"][0]["queries"] for of_system in one["top"] for _, grade in of_system]
    assert set(grades) == {0, 1, 2, None}
    for document in query["explained"]["csplade"]["documents"]:
        assert set(document) == {"id", "rank", "score", "shared", "contributions", "rest", "grade", "run_score"}


def test_what_is_unknown_or_broken_is_left_out_and_said(data: PageData, text: str) -> None:
    second = data["collections"][1]
    assert BROKEN not in [system["name"] for system in second["systems"]]
    assert f"<strong>{BROKEN}</strong> failed: the export &lt;failed&gt;" in text
    assert "Not known of published" in text


def test_means_are_of_the_systems_that_ran_on_all_collections(result: Result, data: PageData, text: str) -> None:
    (mean,) = data["means"]
    assert BROKEN not in mean["scores"] and set(mean["scores"]) < set(result.recipe.systems)
    for system, scores in mean["scores"].items():
        both = [collection.scores[system]["AP"].mean for collection in result.collections.values()]
        assert scores["AP"]["mean"] == pytest.approx(sum(both) / 2)
    assert "Mean of first, second" in text and 'href="#mean-0"' in text


def test_a_page_without_any_score_says_why(result: Result) -> None:
    plan = result.collections["first"].plan
    problems = dict.fromkeys(plan.systems, "no collection there")
    nothing = Result(result.recipe, {"first": CollectionResult(plan, problems=problems)}, {}, 0, 1.0, 1.0)
    assert rendered(page_data(nothing)).count("no collection there") >= len(problems)


def test_no_text_of_a_collection_becomes_part_of_the_page(data: PageData, text: str) -> None:
    elements = Elements(text)
    assert json.loads("".join(elements.texts["script"][:1])) == json.loads(json.dumps(data))
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert not [tag for tag, _ in elements.found if tag in ("img", "link", "iframe", "object", "b", "of")]
    assert "".join(elements.texts["title"][:1]) == "A comparison <of> systems"
    assert data["collections"][0]["queries"][0]["text"] == HOSTILE
    assert embedded(data).count("<") == 0


def renamed(data: PageData, extra: str) -> PageData:
    """The same data in which all that a recipe, a collection or a file can name has an addition."""
    systems = {system["name"]: f"{extra}{system['name']}" for one in data["collections"] for system in one["systems"]}
    collections: list[Any] = [
        one | {
            "name": f"{one['name']}{extra}",
            "systems": [
                system | {"name": systems[system["name"]], "settings": extra, "run_sha256": extra}
                for system in one["systems"]
            ],
            "problems": {f"{name}{extra}": f"{extra}{problem}" for name, problem in one["problems"].items()},
            "queries": [
                query | {"id": f"{query['id']}{extra}", "text": extra, "explained": {}} for query in one["queries"]
            ],
            "sha256": {f"{name}{extra}": digest for name, digest in one["sha256"].items()},
        }
        for one in data["collections"]
    ]  # fmt: skip
    means: list[Any] = [
        mean | {"name": extra, "of": [extra, extra],
                "scores": {systems[name]: scores for name, scores in mean["scores"].items()}}
        for mean in data["means"]
    ]  # fmt: skip
    steps: list[Any] = [step | {"title": extra, "command": f"{step['command']}{extra}"} for step in data["steps"]]
    pairs = [(f"{name}{extra}", f"{value}{extra}") for name, value in data["machine"]]
    return {
        **data, "title": extra, "about": extra, "baseline": f"{extra}bm25", "collections": collections, "means": means,
        "steps": steps, "machine": pairs, "versions": pairs, "failed": [extra for _ in data["failed"]],
    }  # fmt: skip


@pytest.mark.parametrize("extra", ["<script>alert(1)</script>", "\" onload=\"x' y='&amp;", "]]>--><!--</svg></title>"])
def test_whatever_things_are_called_the_page_is_built_of_the_same_elements(data: PageData, extra: str) -> None:
    plain, strange = (Elements(rendered(renamed(data, name))) for name in ("plain-name-for-things-", extra))
    assert [(tag, sorted(attributes)) for tag, attributes in strange.found] == [
        (tag, sorted(attributes)) for tag, attributes in plain.found
    ]
    named = [attributes["data-system"] for _, attributes in strange.found if "data-system" in attributes]
    assert named and all(str(name).startswith(extra) for name in named)
    labels = [str(attributes["aria-label"]) for _, attributes in strange.found if "aria-label" in attributes]
    assert f"Effectiveness and cost on first{extra}" in labels and f"Mean of {extra}, {extra}" in labels
    texts = {text for found in strange.texts.values() for text in found}
    assert {extra, f"{extra}csplade", f"first{extra}"} <= texts


def test_nothing_is_loaded_and_no_other_script_can_run(text: str) -> None:
    elements = Elements(text)
    for _, attributes in elements.found:
        assert "src" not in attributes and "style" not in attributes and "srcset" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    (policy,) = [str(one["content"]) for _, one in elements.found if one.get("http-equiv")]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    script = text[text.rindex("<script>") :]
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttp"):
        assert unsafe not in script


def test_tables_are_in_the_page_without_its_script(result: Result, data: PageData, text: str) -> None:
    static = text[: text.index('<script type="application/json"')]
    for collection in data["collections"]:
        for system in collection["systems"]:
            assert f'<span class="name">{system["name"]}</span>' in static
            for score in system["scores"].values():
                assert f"{score['mean']:.4f}" in static and f"{score['low']:.3f}–{score['high']:.3f}" in static
            for quantity in QUANTITIES:
                if (value := system["costs"][quantity.field]) is not None:
                    assert quantity.shown(value) in static
            assert system["run_sha256"] in static
    assert "▲ p " in static
    for step in result.records:
        assert result.records[step]["key"][:16] in static
    assert "python -m pyserini.encode input --corpus " in static
    for name, version in (*data["machine"], *data["versions"]):
        assert name in static and version in static


def test_names_that_hold_markup_are_shown_as_they_stand_in_markdown(result: Result) -> None:
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py reads Markdown").MarkdownIt(
        "gfm-like", {"linkify": False}
    )
    name = "a|b <img src=x> `c` *d* [e](f) \\ _g_ snake_case &amp; ~~h~~"
    recipe, found = result.recipe, result.collections["first"]
    systems = {name if system == "csplade" else system: kind for system, kind in recipe.systems.items()}
    renamed = CollectionResult(
        replace(found.plan, name=name),
        {name if system == "csplade" else system: scores for system, scores in found.scores.items()},
        costs={name if system == "csplade" else system: costs for system, costs in found.costs.items()},
        problems={name: "why\n# not"},
    )
    changed = Result(
        recipe.model_copy(update={"title": name, "systems": systems, "budgets": {}, "means": {}}),
        {name: renamed}, result.records, 0, 1.0, 1.0,
    )  # fmt: skip
    elements = Elements(markdown.render(report(changed)))
    tags = [tag for tag, _ in elements.found]
    assert not {"img", "em", "a", "s"} & set(tags)
    assert tags.count("td") == len(found.scores) * tags.count("th")
    for place, times in (("h1", 1), ("h2", 1), ("td", 2), ("li", 1)):
        assert "".join(elements.texts[place]).count(name) == times, place


def test_budgets_are_told_beside_the_costs_in_both_reports(result: Result, text: str) -> None:
    table = text[: text.index('<script type="application/json"')]
    assert table.count('<span class="tag fail">FAIL</span></div><div class="test">at most 1 B</div>') == 1
    assert table.count('<span class="tag ok">OK</span></div><div class="test">at most 278 h</div>') == 1
    assert re.search(r"^\| csplade \|.* FAIL \(at most 1 B\) \|.* OK \(at most 278 h\) \|$", report(result), re.M)
    size = result.collections["first"].costs["csplade"].index_bytes
    assert f"first: csplade: index_bytes is {size:,}, at most 1 was budgeted" in result.failed


def test_every_system_with_both_numbers_has_a_mark_and_a_label(data: PageData) -> None:
    for collection in data["collections"]:
        for quantity in (one for one in QUANTITIES if one.field in PLOTTED):
            elements = Elements(drawn(collection["systems"], "nDCG@10", quantity)).found
            known = sorted(one["name"] for one in collection["systems"] if one["costs"][quantity.field])
            for kind in ("mark", "label"):
                of_kind = [one for _, one in elements if str(one.get("class", "")).split()[:1] == [kind]]
                assert sorted(str(one["data-system"]) for one in of_kind) == known
    assert cost_plot([system | {"costs": {}} for system in collection["systems"]], "AP", QUANTITIES[0]) is None  # type: ignore[misc]


def test_marks_of_equal_cost_are_moved_apart(data: PageData) -> None:
    collection = data["collections"][0]
    (quantity,) = [one for one in QUANTITIES if one.field == "index_bytes"]
    assert len({one["costs"]["index_bytes"] for one in collection["systems"]}) < len(collection["systems"])
    marks = [one for _, one in Elements(drawn(collection["systems"], "AP", quantity)).found if "data-system" in one]
    places = sorted(float(str(one["transform"])[10:].split()[0]) for one in marks if "transform" in one)
    assert len(places) == 10 and all(after - before > 8 for before, after in pairwise(places))


def test_kinds_of_systems_have_shapes_of_their_own(data: PageData) -> None:
    shapes: dict[Any, set[Any]] = {}
    for _, attributes in Elements(rendered(data)).found:
        kind = str(attributes.get("class", "")).split()
        if kind[:1] == ["mark"]:
            shapes.setdefault(attributes["d"], set()).add(kind[1])
    assert sorted(str(*kinds) for kinds in shapes.values()) == ["bm25", "csplade", "dense", "fusion", "run", "splade"]


def test_a_plot_of_many_long_names_has_room_for_all(data: PageData) -> None:
    system = data["collections"][0]["systems"][2]
    many: list[Any] = [system | {"name": f"{'long-name-' * 6}{number}"} for number in range(24)]
    elements = Elements(drawn(many, "nDCG@10", QUANTITIES[1])).found
    assert len({one["y"] for _, one in elements if one.get("class") == "label"}) == 24


@given(
    st.lists(st.floats(0, 300), min_size=1, max_size=20), st.sampled_from([10.0, 15.0]),
)  # fmt: skip
def test_places_are_moved_apart_in_their_order_and_no_further_than_others_push_them(
    places: list[float], apart: float
) -> None:
    moved = moved_apart(places, apart, 0, 300)
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in moved)
    ordered = sorted(range(len(places)), key=places.__getitem__)
    assert all(moved[after] - moved[before] >= apart - 1e-6 for before, after in pairwise(ordered))
    if all(places[after] - places[before] >= apart for before, after in pairwise(ordered)):
        assert moved == places
    assert max(abs(new - old) for new, old in zip(moved, places, strict=True)) <= apart * len(places)


@given(st.lists(st.tuples(st.floats(1e-3, 1e15), st.floats(0, 1)), min_size=1, max_size=24))
def test_names_stand_below_each_other_and_no_two_lines_to_them_cross(found: list[tuple[float, float]]) -> None:
    score = {"p_value": None, "is_better": False, "verdict": None, "expected": None, "source": None}
    systems: list[Any] = [
        {"name": f"system-{number}", "kind": "run", "costs": {"postings": cost},
         "scores": {"AP": {**score, "mean": mean, "low": mean / 2, "high": mean}}}
        for number, (cost, mean) in enumerate(found)
    ]  # fmt: skip
    (quantity,) = [one for one in QUANTITIES if one.field == "postings"]
    elements = [one for _, one in Elements(drawn(systems, "AP", quantity)).found]
    rows = sorted(float(str(one["y"])) for one in elements if one.get("class") == "label")
    assert len(rows) == len(found) and all(after - before >= LINE - 0.2 for before, after in pairwise(rows))
    lines = [  # x and y of the mark, the frame's side, x and y of the name
        [float(number) for number in re.findall(r"-?[\d.]+", str(one["d"]))]
        for one in elements if one.get("class") == "leader"
    ]  # fmt: skip
    for before, after in pairwise(sorted(lines, key=lambda line: line[4])):
        assert before[1] <= after[1] and before[2] == after[2] >= max(before[0], after[0])


def test_large_collections_keep_what_tells_systems_apart(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def spread(query: Any) -> float:
        values = [of_system[0] for of_system in query["values"]]
        return max(values) - min(values)

    whole = page_data(result)["collections"][0]
    monkeypatch.setattr(page_data_module, "QUERIES", 24)  # of two collections
    monkeypatch.setattr(page_queries, "EXPLAINED_BYTES", 60_000)
    cut = page_data(result)["collections"][0]
    assert len(cut["queries"]) == 12 and cut["all_queries"] == len(whole["queries"])
    assert sorted(map(spread, cut["queries"])) == sorted(map(spread, whole["queries"]))[-12:]
    assert cut["systems"] == whole["systems"]  # scores, wins and losses are those of all queries
    with_terms = [spread(query) for query in cut["queries"] if query["explained"]]
    without = [spread(query) for query in cut["queries"] if not query["explained"]]
    assert with_terms and without and min(with_terms) >= max(without)


def test_profiles_of_many_queries_are_short_and_keep_their_shape() -> None:
    differences = np.sort(np.random.default_rng(2).normal(0.1, 0.3, 7200))
    profile = page_data_module._profile(differences)
    assert len(profile) == page_data_module.PROFILE and profile == sorted(profile)
    assert np.mean(profile) == pytest.approx(differences.mean(), abs=1e-4)
    assert page_data_module._profile(np.array([-0.5, 0.0, 0.25])) == [-0.5, 0.0, 0.25]


def test_numbers_are_written_with_the_units_of_people() -> None:
    assert [bytes_shown(size) for size in (0, 999, 1000, 999_999, 1_234_567, 2.5e9)] == [
        "0 B", "999 B", "1 kB", "1 MB", "1.2 MB", "2.5 GB",
    ]  # fmt: skip
    assert [milliseconds_shown(value) for value in (0.042, 4.56, 999.0, 12345.0)] == [
        "0.042 ms", "4.6 ms", "999 ms", "12 s",
    ]  # fmt: skip
    assert [seconds_shown(value) for value in (0.4, 299.0, 600.0, 9000.0)] == ["0.4 s", "299 s", "10 min", "2.5 h"]
    assert [rate_shown(value) for value in (0.123, 4.56, 1234.5)] == ["0.12", "4.6", "1,234"]
    assert [count_shown(value) for value in (42, 9999, 12_345, 1_234_567, 8.8e9)] == [
        "42", "9,999", "12 k", "1.2 M", "8.8 G",
    ]  # fmt: skip


def test_the_page_of_a_result_is_the_same_each_time(result: Result, text: str) -> None:
    assert rendered(page_data(result)) == text
