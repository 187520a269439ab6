"""The tables of the study, from the figures that it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from examples.quantization.plots import plot_precisions, plot_pruning
from examples.quantization.settings import (
    COLLECTIONS,
    ENGINES,
    MEASURES,
    NDCG,
    PRUNING,
    QUERY_ENCODERS,
    REFERENCE,
    Figures,
    cell,
    read_cell,
)

TABLE, PRECISIONS_PLOT, PRUNING_PLOT = "quantization-table.md", "quantization.png", "quantization-pruning.png"
UNITS = {"top-k": "{} terms", "weight mass": "{} %", "impact bits": "{} bits"}
PRECISIONS_HEADER = (
    "collection", "model", "queries", "nDCG@10", "to torch fp32", "R@100", "top 100 terms kept",
    "terms: document, query", "index kB", "documents/s", "query ms: encoding, search", "file MB",
)  # fmt: skip

Precisions = dict[str, dict[str, Figures]]  # by collection and engine
Pruning = dict[str, Figures]  # by collection


def write_report(work: Path, output: Path) -> None:
    """Write the table and the plots of everything that is measured."""
    names = _collections(work)
    precisions = {
        name: {engine: found for engine in ENGINES if (found := read_cell(cell(work, name, engine)))} for name in names
    }
    pruning = {name: found for name in names if (found := read_cell(cell(work, name, PRUNING)))}
    output.mkdir(parents=True, exist_ok=True)
    settings = read_cell(work / "settings.json")
    (output / TABLE).write_text(table(precisions, pruning, settings), encoding="utf-8")
    measured = {
        name: {engine: one for engine, one in cells.items() if "queries" in one} for name, cells in precisions.items()
    }
    if any(measured.values()):
        plot_precisions({name: cells for name, cells in measured.items() if cells}, output / PRECISIONS_PLOT)
    if pruning:
        plot_pruning(pruning, output / PRUNING_PLOT)


def _collections(work: Path) -> list[str]:
    """Return the collections that there are figures of, the known ones in their order first."""
    found = sorted(path.name for path in (work / "cells").glob("*") if path.is_dir())
    return sorted(found, key=lambda name: COLLECTIONS.index(name) if name in COLLECTIONS else len(COLLECTIONS))


def table(precisions: Precisions, pruning: Pruning, settings: Figures) -> str:
    """Return both tables as Markdown, with what could not be run."""
    lines = [
        f"## Number formats\n\nDevice {settings.get('device')}, threads: {settings.get('threads')}.\n",
        *_header(PRECISIONS_HEADER),
    ]
    refused = []
    for name, cells in precisions.items():
        for engine, figures in cells.items():
            if "refused" in figures:
                refused.append(f"- {name}, {engine}: {figures['refused']}")
                continue
            reference = cells.get(REFERENCE, {}).get("queries", {})
            lines += [
                _row(precision_cells(name, engine, encoder, figures, reference))
                for encoder in QUERY_ENCODERS
                if encoder in figures["queries"]
            ]
    if refused:
        lines += ["", "Not run, with the reason:", "", *refused]
    lines += ["", "## Pruning of documents", "", *_header(_pruning_header())]
    for name, figures in pruning.items():
        lines += [_row(pruning_cells(name, point)) for point in figures["documents"]]
    lines += [
        "",
        "## Pruning of queries",
        "",
        *_header(("collection", "queries", "terms kept, at most", "terms", *MEASURES)),
    ]
    for name, figures in pruning.items():
        for point in figures["queries"]:
            values = [f"{point[measure]:.4f}" for measure in MEASURES]
            lines.append(_row([name, point["method"], str(point["value"]), f"{point['terms']:.0f}", *values]))
    return "\n".join(lines) + "\n"


def precision_cells(name: str, engine: str, encoder: str, figures: Figures, reference: Figures) -> list[str]:
    """Return a row of the first table."""
    queries = figures["queries"][encoder]
    change = f"{queries[NDCG] - reference[encoder][NDCG]:+.4f}" if encoder in reference else "-"
    return [
        name,
        engine,
        encoder,
        f"{queries[NDCG]:.4f}",
        change,
        f"{queries[MEASURES[1]]:.4f}",
        f"{figures['top terms kept']:.1%}",
        f"{figures['document terms']:.0f}, {queries['terms']:.0f}",
        f"{figures['index bytes'] / 1000:,.0f}",
        f"{figures['documents per second']:.1f}",
        f"{queries['encode ms']:.1f}, {queries['search ms']:.1f}",
        f"{figures['file bytes'] / 1e6:.1f}",
    ]


def pruning_cells(name: str, point: Figures) -> list[str]:
    """Return a row of the second table."""
    measured = [
        f"{point['queries'][encoder][measure]:.4f}" if encoder in point["queries"] else "-"
        for measure in MEASURES
        for encoder in QUERY_ENCODERS
    ]
    left = UNITS.get(point["method"], "{}").format(point["value"])
    return [
        name,
        point["method"],
        left,
        f"{point['terms']:.0f}",
        f"{point['index bytes per document']:,.0f}",
        *measured,
    ]


def _pruning_header() -> list[str]:
    measured = [f"{measure}, {encoder}" for measure in MEASURES for encoder in QUERY_ENCODERS]
    return ["collection", "method", "what is left", "terms", "index bytes per document", *measured]


def _header(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
