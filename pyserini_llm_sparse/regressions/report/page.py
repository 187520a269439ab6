"""The report as one HTML page that opens from disk: tables and plots are in it as they are, scripts add the queries.

Nothing is loaded from anywhere: the page's own content security policy forbids it, and allows its one style sheet and
its one script by their hashes. What comes from the collection is escaped here, and inserted as text by the script.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from pyserini_llm_sparse.regressions.outcome.quantities import PLOTTED, QUANTITIES
from pyserini_llm_sparse.regressions.report.page_data import CollectionData, PageData, SystemData
from pyserini_llm_sparse.regressions.report.page_tables import (
    legend,
    mean_table,
    outcome_table,
    pair_table,
    problem_list,
    score_and_cost_table,
    step_table,
)
from pyserini_llm_sparse.regressions.report.plots import cost_plot

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def rendered(data: PageData) -> str:
    """Return the page of what it shows."""
    style, script = _asset("page.css"), _asset("page.js")
    parts = {
        "style_hash": _sha256(style),
        "script_hash": _sha256(script),
        "title": escape(data["title"]),
        "about": f'<p class="about">{escape(data["about"])}</p>' if data["about"] else "",
        "failed": _failed(data),
        "contents": _contents(data),
        "collections": "".join(
            _collection(data, collection, number) for number, collection in enumerate(data["collections"])
        ),
        "means": "".join(
            f'<section id="mean-{number}"><h2>{escape(mean["name"])}</h2>{mean_table(data, mean)}</section>'
            for number, mean in enumerate(data["means"])
        ),
        "commands": escape("\n".join(step["command"] for step in data["steps"] if step["command"])),
        "steps": step_table(data),
        "machine": pair_table("Machine", data["machine"]),
        "versions": pair_table("Versions", data["versions"]),
        "hashes": pair_table("SHA-256 of files", list(_hashes(data)), code=True),
        "data": embedded(data),
        "style": style,
        "script": script,
    }
    return _PLACE.sub(lambda place: parts[place[1]], _asset("page.html"))


def embedded(data: PageData) -> str:
    """Return data as JSON that no text in it can end: neither a closing tag nor a comment is left.

    >>> embedded({"title": "</script><!--"})
    '{"title":"\\\\u003c/script>\\\\u003c!--"}'
    """
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (files("pyserini_llm_sparse.regressions.report") / "assets" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _failed(data: PageData) -> str:
    items = "".join(f"<li>{escape(one)}</li>" for one in data["failed"])
    return f'<section class="failed"><h2>Not as expected</h2><ul>{items}</ul></section>' if items else ""


def _contents(data: PageData) -> str:
    names = [collection["name"] for collection in data["collections"]]
    links = [f'<a href="#collection-{number}">{escape(name)}</a>' for number, name in enumerate(names)]
    links += [f'<a href="#mean-{number}">{escape(mean["name"])}</a>' for number, mean in enumerate(data["means"])]
    return "".join(f"<li>{link}</li>" for link in [*links, '<a href="#made">How it was made</a>'])


def _collection(data: PageData, collection: CollectionData, number: int) -> str:
    """Return the part of one collection."""
    counts = ", ".join(f"{count:,} {name}" for name, count in collection["counts"].items() if count)
    parts = [
        f'<section class="collection" id="collection-{number}" data-number="{number}">',
        f'<h2>{escape(collection["name"])}</h2><p class="counts">{counts}</p>',
    ]
    if collection["systems"]:
        parts += [f'<ul class="findings">{"".join(_findings(data, collection))}</ul>']
        parts += [score_and_cost_table(data, collection), _note(data, collection)]
        settings = [(system["name"], system["settings"]) for system in collection["systems"]]
        parts.append(f"<details><summary>What the systems are</summary>{pair_table('Systems', settings)}</details>")
    parts.append(problem_list(collection))
    if collection["systems"]:
        parts += _by_measure(data, collection)
        parts.append('<div class="queries"><noscript>Single queries are shown by a script.</noscript></div>')
    return "".join([*parts, "</section>"])


def _findings(data: PageData, collection: CollectionData) -> Iterator[str]:
    """Yield what a reader wants to know first, as list items."""
    measure, systems = data["measures"][0], collection["systems"]
    best = max(systems, key=lambda system: system["scores"][measure]["mean"])
    score = best["scores"][measure]
    yield (
        f"<li><strong>{escape(best['name'])}</strong> has the highest {escape(measure)}, {score['mean']:.4f} "
        f"[{score['low']:.3f}, {score['high']:.3f}].</li>"
    )
    for is_better in (True, False):
        if names := _beyond_chance(data, systems, measure, is_better):
            sign, word = ("▲", "better") if is_better else ("▼", "worse")
            yield f"<li>{sign} Beyond chance {word} than {escape(data['baseline'])}: {escape(', '.join(names))}.</li>"
    if any(system["outcomes"] for system in systems) and not (
        _beyond_chance(data, systems, measure, True) or _beyond_chance(data, systems, measure, False)
    ):
        yield f"<li>No difference from {escape(data['baseline'])} is beyond chance.</li>"
    verdicts = [one["verdict"] for system in systems for one in system["scores"].values() if one["verdict"]]
    if verdicts:
        counted = ", ".join(f"{verdicts.count(one)} {one}" for one in ("OK", "OKish", "FAIL") if one in verdicts)
        yield f"<li>Of {len(verdicts)} expected scores: {counted}.</li>"


def _beyond_chance(data: PageData, systems: Sequence[SystemData], measure: str, is_better: bool) -> list[str]:
    return [
        system["name"]
        for system in systems
        for score in [system["scores"][measure]]
        if score["p_value"] is not None and score["p_value"] < data["significant"] and score["is_better"] == is_better
    ]


def _note(data: PageData, collection: CollectionData) -> str:
    notes = [
        f"Under a score: its {data['confidence']:.0%} confidence interval (bootstrap of the queries), drawn on one "
        "scale for the column; the dashed line is the baseline. Bold: the best of a column."
    ]
    if any(system["outcomes"] for system in collection["systems"]):
        notes.append(
            f"▲ better, ▼ worse than {data['baseline']} with p < {data['significant']:g} in a paired t-test, after "
            "Holm's correction for the number of systems."
        )
    notes.append(
        "Documents per second are those of the whole command. A query is encoded and its ten best documents are found, "
        "on one thread, when everything is warm; p50 and p99 are over all queries. A fusion costs what its parts cost. "
        "Memory is the largest of a command."
    )
    return f'<p class="note">{escape(" ".join(notes))}</p>'


def _by_measure(data: PageData, collection: CollectionData) -> Iterator[str]:
    """Yield the plots and the wins and losses for each measure; the script shows those of one at a time."""
    yield '<div class="measures"></div>'
    plotted = [one for name in PLOTTED for one in QUANTITIES if one.field == name]
    for measure in data["measures"]:
        yield f'<div class="of-measure" data-measure="{escape(measure)}">'
        yield f"<h3>{escape(measure)} against cost</h3>"
        yield f'<ul class="legend">{legend(collection["systems"])}</ul>'
        yield (
            '<p class="note">The dotted line joins the systems to which none is both cheaper and better. Upright '
            f"lines are {data['confidence']:.0%} confidence intervals. Marks of about equal cost are moved apart a "
            "little.</p>"
        )
        yield '<div class="plots">'
        for quantity in plotted:
            if plot := cost_plot(collection["systems"], measure, quantity):
                without = [one["name"] for one in collection["systems"] if not one["costs"][quantity.field]]
                note = f"Not known of {escape(', '.join(without))}." if without else ""
                yield f"<figure>{plot}<figcaption>{note}</figcaption></figure>"
        yield "</div>"
        unknown = [
            one.axis for one in plotted if not any(system["costs"][one.field] for system in collection["systems"])
        ]
        if unknown:
            yield f'<p class="note">Not plotted, as it is not known of any system: {escape(", ".join(unknown))}.</p>'
        if outcomes := outcome_table(data, collection, measure):
            yield f"<h3>Query by query against {escape(data['baseline'])}</h3>{outcomes}"
        yield "</div>"


def _hashes(data: PageData) -> Iterator[tuple[str, str]]:
    for collection in data["collections"]:
        for name, digest in collection["sha256"].items():
            yield f"{collection['name']}: {name}", digest
        for system in collection["systems"]:
            yield f"{collection['name']}: {system['name']}: run", system["run_sha256"]
