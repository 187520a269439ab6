"""The plots of the study: effectiveness against speed, and against the size of the index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples.quantization.settings import ENGINES, NDCG, QUERY_ENCODERS, Figures

PALETTE = ("#000000", "#999999", "#0072b2", "#56b4e9", "#cc79a7", "#d55e00", "#009e73", "#e69f00")
COLOURS = dict(zip(ENGINES, PALETTE, strict=False))
MARKERS = dict(zip(QUERY_ENCODERS, ("o", "s"), strict=True))
STYLES = dict(zip(QUERY_ENCODERS, ("-", ":"), strict=True))
METHODS = {"top-k": "#0072b2", "weight mass": "#d55e00", "impact bits": "#009e73"}
UNITS = {"top-k": "", "weight mass": " %", "impact bits": " b"}
GREY = "#555555"
TERMS = (4, 16, 64, 256, 1024)  # of a query, where the axis has marks
WIDE = 9  # inches that all marks fit in one line of


def plot_precisions(precisions: dict[str, dict[str, Figures]], path: Path) -> None:
    """Draw nDCG@10 against documents per second, a chart for each collection, a colour for each number format."""
    figure, rows = _charts(1, len(precisions))
    for axis, (name, cells) in zip(rows[0], precisions.items(), strict=True):
        for engine, figures in cells.items():
            for encoder, queries in figures["queries"].items():
                place = (figures["documents per second"], queries[NDCG])
                filled = COLOURS[engine] if encoder == QUERY_ENCODERS[0] else "none"
                axis.scatter(*place, s=38, marker=MARKERS[encoder], edgecolors=COLOURS[engine], facecolors=filled)
        _finish(axis, name, "documents per second")
        axis.set_xlim(left=0)
        axis.margins(y=0.25)
    rows[0][0].set_ylabel(NDCG, fontsize=9, color="#333333")
    shown = [engine for engine in ENGINES if any(engine in cells for cells in precisions.values())]
    entries = [_entry(engine, COLOURS[engine], "o", "none") for engine in shown]
    entries.append(_entry("inference-free queries", GREY, MARKERS[QUERY_ENCODERS[0]], "none"))
    entries.append(_entry("model queries", GREY, MARKERS[QUERY_ENCODERS[1]], "none", hollow=True))
    _save(figure, entries, path)


def plot_pruning(pruning: dict[str, Figures], path: Path) -> None:
    """Draw nDCG@10 against index size (a line for each method), and below it against the terms of a query."""
    figure, rows = _charts(2, len(pruning))
    for upper, lower, (name, figures) in zip(*rows, pruning.items(), strict=True):
        _documents(upper, figures["documents"])
        _finish(upper, name, "index bytes per document")
        _queries(lower, figures["queries"])
        _finish(lower, "", "terms of a query")
    rows[0][0].set_ylabel(f"{NDCG}, pruned documents", fontsize=9, color="#333333")
    rows[1][0].set_ylabel(f"{NDCG}, pruned queries", fontsize=9, color="#333333")
    entries = [_entry(method, colour, "none", "-") for method, colour in METHODS.items()]
    entries.append(_entry("all terms", "#000000", "*", "none"))
    entries.append(_entry("inference-free queries", GREY, MARKERS[QUERY_ENCODERS[0]], STYLES[QUERY_ENCODERS[0]]))
    entries.append(_entry("model queries", GREY, MARKERS[QUERY_ENCODERS[1]], STYLES[QUERY_ENCODERS[1]]))
    _save(figure, entries, path)


def _documents(axis: Any, points: list[Figures]) -> None:
    """Draw the lines of the methods; those that leave impacts as they are end at all terms."""
    for encoder in QUERY_ENCODERS:
        places = [
            (point["method"], point["index bytes per document"], point["queries"][encoder][NDCG], point["value"])
            for point in points
            if encoder in point["queries"]
        ]
        everything = [place[1:3] for place in places if place[0] == "all"]
        for method, colour in METHODS.items():
            own = sorted(place[1:] for place in places if place[0] == method)
            drawn = [place[:2] for place in own] + (everything if method != "impact bits" else [])
            if drawn:
                axis.plot(
                    *zip(*drawn, strict=True),
                    STYLES[encoder],
                    color=colour,
                    linewidth=1.4,
                    marker=MARKERS[encoder],
                    markersize=3.5,
                )
            for size, value, kept in (own[0], own[-1]) if own and encoder == QUERY_ENCODERS[0] else ():
                axis.annotate(
                    f"{kept}{UNITS[method]}",
                    (size, value),
                    textcoords="offset points",
                    xytext=(3, -9),
                    fontsize=7,
                    color=colour,
                )
        for place in everything:
            axis.plot(*place, "*", color="#000000", markersize=8)
    axis.set_xlim(left=0)


def _queries(axis: Any, points: list[Figures]) -> None:
    """Draw the line of the model's queries by their terms, and the point of the inference-free ones."""
    for encoder in QUERY_ENCODERS:
        places = sorted((point["terms"], point[NDCG]) for point in points if point["method"] == encoder)
        if places:
            axis.plot(
                *zip(*places, strict=True),
                STYLES[encoder],
                color=METHODS["top-k"],
                linewidth=1.4,
                marker=MARKERS[encoder],
                markersize=4.5,
            )
    axis.set_xscale("log")
    axis.set_xticks(TERMS, [str(terms) for terms in TERMS])
    axis.minorticks_off()


def _charts(rows: int, columns: int) -> tuple[Any, Any]:
    """Return a figure and its axes ``[rows][columns]``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.5, 3.3 * columns + 0.6), 3.0 * rows + 0.9), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _finish(axis: Any, title: str, label: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel(label, fontsize=9, color="#333333")
    axis.tick_params(labelsize=8, colors=GREY)
    axis.grid(color="#e8e8e8", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _entry(label: str, colour: str, marker: str, style: Any, hollow: bool = False) -> Any:
    """Return a line of the legend."""
    from matplotlib.lines import Line2D

    filled = "none" if hollow else colour
    return Line2D(
        [], [], color=colour, marker=marker, linestyle=style, markersize=5, markerfacecolor=filled, label=label
    )


def _save(figure: Any, entries: list[Any], path: Path) -> None:
    """Say once above all charts what colours and marks are, and write the figure."""
    columns = 9 if figure.get_figwidth() > WIDE else 4
    figure.legend(handles=entries, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)
    figure.savefig(str(path), metadata={"Software": None})
