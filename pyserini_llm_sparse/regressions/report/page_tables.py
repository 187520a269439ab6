"""The tables of the HTML report: scores beside costs, wins and losses, and what made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from pyserini_llm_sparse.regressions.outcome.quantities import QUANTITIES, Quantity, bytes_shown, seconds_shown
from pyserini_llm_sparse.regressions.report.page_data import CollectionData, MeanData, PageData, ScoreData, SystemData
from pyserini_llm_sparse.regressions.report.plots import difference_profile, interval_strip, mark_shape


def system_name(system: SystemData) -> str:
    """Return a system's name with its mark, and whether it is the baseline."""
    tag = ' <span class="tag">baseline</span>' if system["is_baseline"] else ""
    return f'{mark_icon(system["kind"])}<span class="name">{escape(system["name"])}</span>{tag}'


def mark_icon(kind: str) -> str:
    """Return the mark of a kind of systems as a small picture."""
    shape = mark_shape(kind, 0, 0)
    return f'<svg class="icon" viewBox="-8 -8 16 16" width="14" height="14" aria-hidden="true">{shape}</svg>'


def score_and_cost_table(data: PageData, collection: CollectionData) -> str:
    """Return the table of all systems: each measure with its interval and test, and beside them the costs."""
    systems, measures = collection["systems"], data["measures"]
    costs = [one for one in QUANTITIES if any(system["costs"][one.field] is not None for system in systems)]
    head = (
        f'<tr><td></td><th colspan="{len(measures)}" scope="colgroup">Effectiveness</th>'
        + (f'<th class="first" colspan="{len(costs)}" scope="colgroup">Cost</th>' if costs else "")
        + '</tr><tr><th scope="col">system</th>'
        + "".join(f'<th scope="col">{escape(measure)}</th>' for measure in measures)
        + "".join(f'<th scope="col" class="number{_first(place)}">{escape(one.title)}</th>'
                  for place, one in enumerate(costs))
        + "</tr>"
    )  # fmt: skip
    cells = {measure: _score_cells(data, systems, measure) for measure in measures}
    best = {one.field: _best_cost(systems, one) for one in costs}
    rows = []
    for number, system in enumerate(systems):
        row = "".join(cells[measure][number] for measure in measures)
        row += "".join(
            f'<td class="number{_first(place)}">{_cost(system, one, best[one.field])}</td>'
            for place, one in enumerate(costs)
        )
        rows.append(f'<tr><th scope="row">{system_name(system)}</th>{row}</tr>')
    return _table("scores", f"Effectiveness and cost on {collection['name']}", head, rows)


def mean_table(data: PageData, mean: MeanData) -> str:
    """Return the table of a mean over collections: each system's score, and whether it is as expected."""
    head = '<tr><th scope="col">system</th>' + "".join(
        f'<th scope="col" class="number">{escape(measure)}</th>' for measure in data["measures"]
    )
    rows = [
        f'<tr><th scope="row">{escape(system)}</th>'
        + "".join(f'<td class="number">{scores[measure]["mean"]:.4f} {_verdict(scores[measure])}</td>'
                  for measure in data["measures"])
        + "</tr>"
        for system, scores in mean["scores"].items()
    ]  # fmt: skip
    return _table("outcomes", f"Mean of {', '.join(mean['of'])}", f"{head}</tr>", rows)


def outcome_table(data: PageData, collection: CollectionData, measure: str) -> str:
    """Return the table of wins, ties and losses against the baseline; empty if nothing can be compared."""
    rows = []
    baseline = _baseline_mean(collection["systems"], measure) or 0.0
    for system in collection["systems"]:
        if measure not in system["outcomes"]:
            continue
        wins, ties, losses = system["outcomes"][measure]
        score = system["scores"][measure]
        rows.append(
            f'<tr><th scope="row">{system_name(system)}</th><td>{_outcome_bar(wins, ties, losses)}</td>'
            f'<td class="number">{_signed(score["mean"] - baseline)}</td>'
            f'<td class="number">{_p_value(score, data["significant"])}</td>'
            f"<td>{difference_profile(system['profiles'][measure])}</td></tr>"
        )
    head = (
        '<tr><th scope="col">system</th><th scope="col">queries ▲ won, = tied, ▼ lost</th>'
        '<th scope="col" class="number">mean difference</th><th scope="col" class="number">test</th>'
        '<th scope="col">all differences, sorted</th></tr>'
    )
    title = f"{measure} against {data['baseline']} on {collection['name']}"
    return _table("outcomes", title, head, rows) if rows else ""


def problem_list(collection: CollectionData) -> str:
    """Return why some systems have no scores; empty if all have."""
    items = [
        f"<li><strong>{escape(system)}</strong> failed: {escape(problem)}</li>"
        for system, problem in collection["problems"].items()
    ]
    return f'<ul class="problems">{"".join(items)}</ul>' if items else ""


def step_table(data: PageData) -> str:
    """Return the commands that ran, in order, with what they took and the names of their inputs' content."""
    head = (
        '<tr><th scope="col">step</th><th scope="col" class="number">time</th>'
        '<th scope="col" class="number">peak memory</th><th scope="col">inputs</th></tr>'
    )
    rows = [
        f'<tr><th scope="row">{escape(step["title"])}</th><td class="number">{seconds_shown(step["seconds"])}</td>'
        f'<td class="number">{bytes_shown(step["peak_bytes"]) if step["peak_bytes"] else "–"}</td>'
        f"<td><code>{escape(step['key'][:16])}</code></td></tr>"
        for step in data["steps"]
    ]
    return _table("steps", "Steps", head, rows)


def pair_table(title: str, pairs: Sequence[tuple[str, str]], code: bool = False) -> str:
    """Return a table of names and texts."""
    before, after = ("<code>", "</code>") if code else ("", "")
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{before}{escape(text)}{after}</td></tr>' for name, text in pairs
    ]
    return _table("pairs", title, "", rows)


def _table(kind: str, title: str, head: str, rows: Sequence[str]) -> str:
    """Return a table in a box of its own that scrolls, by keyboard, too."""
    label = escape(title)
    return (
        f'<div class="scrolls" tabindex="0" role="region" aria-label="{label}"><table class="{kind}">'
        f"<caption>{label}</caption>{f'<thead>{head}</thead>' if head else ''}<tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _score_cells(data: PageData, systems: Sequence[SystemData], measure: str) -> list[str]:
    scores = [system["scores"][measure] for system in systems]
    bounds = min(score["low"] for score in scores), max(score["high"] for score in scores)
    baseline = _baseline_mean(systems, measure)
    best = max(f"{score['mean']:.4f}" for score in scores)
    cells = []
    for system, score in zip(systems, scores, strict=True):
        mean = f"{score['mean']:.4f}"
        shown = f"<strong>{mean}</strong>" if mean == best else mean
        lines = [
            f'<span class="mean">{shown}</span>',
            interval_strip(system, measure, bounds, baseline),
            f'<span class="interval">{score["low"]:.3f}–{score["high"]:.3f}</span>',
            _p_value(score, data["significant"]),
            _verdict(score),
        ]
        cells.append(f'<td class="score">{"".join(f"<div>{line}</div>" for line in lines if line)}</td>')
    return cells


def _baseline_mean(systems: Sequence[SystemData], measure: str) -> float | None:
    return next((system["scores"][measure]["mean"] for system in systems if system["is_baseline"]), None)


def _verdict(score: ScoreData) -> str:
    if score["verdict"] is None:
        return ""
    expected = "" if score["verdict"] == "OK" else f'<div class="test">{score["source"]} {score["expected"]:g}</div>'
    return f"{_verdict_tag(score['verdict'])}{expected}"


def _verdict_tag(verdict: str) -> str:
    return f'<span class="tag {verdict.lower()}">{verdict}</span>'


def _p_value(score: ScoreData, significant: float) -> str:
    """Return a test's outcome: a sign if the difference is beyond chance, and the corrected p-value."""
    value = score["p_value"]
    if value is None:
        return ""
    shown = "p < 0.001" if value < 0.001 else f"p {value:.3f}" if value < 0.1 else f"p {value:.2f}"
    if value >= significant:
        return f'<span class="test">{shown}</span>'
    sign, kind = ("▲", "better") if score["is_better"] else ("▼", "worse")
    return f'<span class="test {kind}">{sign} {shown}</span>'


def _cost(system: SystemData, quantity: Quantity, best: float | None) -> str:
    value = system["costs"][quantity.field]
    if value is None:
        return '<span class="none">–</span>'
    shown = escape(quantity.shown(value))
    if value == best:
        shown = f"<strong>{shown}</strong>"
    if (held := system["budgets"].get(quantity.field)) is None:
        return shown
    limit = f'<div class="test">{held.bound} {escape(quantity.shown(held.limit))}</div>'
    return f"{shown}<div>{_verdict_tag(held.verdict)}</div>{limit}"


def _best_cost(systems: Sequence[SystemData], quantity: Quantity) -> float | None:
    """Return the best value of a cost if it is not that of all."""
    values = {value for system in systems if (value := system["costs"][quantity.field])}
    choose: Callable[[set[float]], float] = max if quantity.more_is_better else min
    return choose(values) if len(values) > 1 else None


def _outcome_bar(wins: int, ties: int, losses: int) -> str:
    """Return a bar of three parts, full, pale and hollow, and its numbers."""
    width, total = 240.0, (wins + ties + losses) or 1
    x, parts = 0.0, []
    for number, kind in ((wins, "better"), (ties, "tie"), (losses, "worse")):
        size = width * number / total
        if number:
            parts.append(f'<rect class="{kind}" x="{x + 1:.1f}" y="2" width="{max(size - 2, 0.5):.1f}" height="12"/>')
        x += size
    return (
        f'<svg class="bar" viewBox="0 0 {width:g} 16" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}'
        f'</svg><div class="outcome">▲ {wins} · = {ties} · ▼ {losses}</div>'
    )


def _signed(value: float) -> str:
    """Return a difference with its sign.

    >>> _signed(0.0123), _signed(-0.5), _signed(0.0)
    ('▲ +0.0123', '▼ −0.5000', '0.0000')
    """
    if f"{abs(value):.4f}" == "0.0000":
        return "0.0000"
    return f"▲ +{value:.4f}" if value > 0 else f"▼ −{-value:.4f}"


def _first(place: int) -> str:
    return " first" if place == 0 else ""


def legend(systems: Sequence[SystemData]) -> str:
    """Return the marks of the kinds that the systems have."""
    return "".join(f"<li>{mark_icon(kind)}{escape(kind)}</li>" for kind in _kinds(systems))


def _kinds(systems: Sequence[SystemData]) -> Iterator[str]:
    yield from dict.fromkeys(system["kind"] for system in systems)
