"""Table and plot of the scaling study, from what the runs left with their results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from examples.scaling.settings import OBJECTIVES, REPRESENTATIONS, SIZES, Run

COLOURS = {"CL": "#0072b2", "KD": "#d55e00", "CL+KD": "#009e73"}
MEASURES = ("nDCG@10", "R@100")


def read_run(run: Run, work: Path) -> dict[str, Any] | None:
    """Return what a finished run reached; None of one that is not done."""
    path = run.folder(work) / "training" / "environment.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_report(work: Path, runs: Sequence[Run], budget: float, output: Path) -> None:
    """Write ``scaling-table.md`` and ``scaling.png`` of the runs that are finished."""
    found = {run: result for run in runs if (result := read_run(run, work)) is not None}
    output.mkdir(parents=True, exist_ok=True)
    (output / "scaling-table.md").write_text(table(found, budget), encoding="utf-8")
    if found:
        plot(found, output / "scaling.png")


def table(found: dict[Run, dict[str, Any]], budget: float) -> str:
    """Return a Markdown table with a row for each size, representation and objective; values are means over seeds."""
    lines = [
        "| size | layers x hidden | parameters a token meets | steps | representation | objective | seeds | nDCG@10 "
        "| R@100 | terms: query, document | seconds |",
        "|" + "---|" * 11,
    ]
    for size in SIZES:
        for representation in REPRESENTATIONS:
            for objective in OBJECTIVES:
                cell = {
                    run: result
                    for run, result in found.items()
                    if (run.size, run.representation, run.objective) == (size, representation, objective)
                }
                if not cell:
                    continue
                run = next(iter(cell))
                measures = [result["measures"] for result in cell.values()]
                terms = "-"
                if representation == "sparse":
                    terms = ", ".join(
                        f"{mean(each[f'{side}_active_terms'] for each in measures):.0f}"
                        for side in ("query", "document")
                    )
                values = " | ".join(f"{mean(each[name] for each in measures):.3f}" for name in MEASURES)
                lines.append(
                    f"| {size.name} | {size.layers} x {size.hidden} | {run.parameters / 1e6:.2f} M "
                    f"| {run.steps(budget):,} | {representation} | {objective} | {len(cell)} | {values} | {terms} "
                    f"| {mean(result['seconds'] for result in cell.values()):.0f} |"
                )
    return "\n".join(lines) + "\n"


def plot(found: dict[Run, dict[str, Any]], path: Path) -> None:
    """Draw nDCG@10 against size, a chart for each representation, a line for each objective, a point for each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.7), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(REPRESENTATIONS), sharey=True)
    for axis, representation in zip(axes, REPRESENTATIONS, strict=True):
        for objective, colour in COLOURS.items():
            points = [
                (place, run.size.name, result["measures"]["nDCG@10"])
                for place, size in enumerate(SIZES)
                for run, result in found.items()
                if (run.size, run.representation, run.objective) == (size, representation, objective)
            ]
            if not points:
                continue
            places = sorted({place for place, _, _ in points})
            means = [mean(value for other, _, value in points if other == place) for place in places]
            axis.plot(places, means, color=colour, linewidth=1.5, label=objective)
            axis.plot([point[0] for point in points], [point[2] for point in points], "o", color=colour, markersize=4)
        axis.set_title(representation, loc="left", fontsize=11, fontweight="bold")
        axis.set_xticks(range(len(SIZES)), [f"{size.name}\n{size.layers} x {size.hidden}" for size in SIZES])
        axis.set_xlim(-0.3, len(SIZES) - 0.7)
        axis.set_xlabel("model size (larger models get fewer steps)", fontsize=9, color="#333333")
        axis.tick_params(labelsize=9, colors="#555555")
        axis.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylim(bottom=0)  # of both, once all is drawn
    axes[0].set_ylabel("nDCG@10, development set", fontsize=9, color="#333333")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(COLOURS), frameon=False, fontsize=10)
    figure.savefig(str(path), metadata={"Software": None})
