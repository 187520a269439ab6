"""Table and plot of the instability study, from the logs that the runs left with their results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from examples.instability.settings import ADAPTATIONS, Setting, run_folder

COLOURS = {
    "random weights": "#999999", "no adaptation": "#d55e00", "next-token": "#e69f00", "CSPLADE": "#0072b2",
    "CSPLADE x 10": "#009e73",
}  # fmt: skip
ROWS = (
    ("document_active_terms", "active terms\nof a document"),
    ("query_active_terms", "active terms\nof a query"),
    ("dead", "share of texts\nwithout any term"),
    ("document_cosine", "mean cosine of\ntwo documents"),
    ("contrastive", "InfoNCE\n(chance: log 24)"),
    ("eval_nDCG@10", "nDCG@10"),
)
DEAD = 0.5  # share of texts without a term
ALIKE = 0.95  # mean cosine of two documents


def read_run(folder: Path) -> list[dict[str, Any]]:
    """Return the log lines of a run; none of one that failed or is not there."""
    path = folder / "training" / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if "dead_queries" in line:
            line["dead"] = max(line["dead_queries"], line["dead_documents"])
            if line["dead_documents"] >= DEAD:
                line["document_cosine"] = None  # of the few that are left
    return lines


def verdict(log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what is said of a run in the table, the last ten steps for its end."""
    steps = [line for line in log if "dead" in line]
    evaluations = [line["eval_nDCG@10"] for line in log if "eval_nDCG@10" in line]
    last = steps[-10:]
    loss = mean(line["contrastive"] for line in last)
    return {
        "first loss": steps[0]["contrastive"],
        "loss": loss,
        "dead at the end": mean(line["dead"] for line in last) >= DEAD,
        "dead": sum(line["dead"] >= DEAD for line in steps) / len(steps),
        "alike": sum((line["document_cosine"] or 0) >= ALIKE for line in steps) / len(steps),
        "query terms": mean(line["query_active_terms"] for line in last),
        "document terms": mean(line["document_active_terms"] for line in last),
        "first": evaluations[0],
        "dip": min(evaluations[2:] or evaluations),
        "last": evaluations[-1],
    }


def write_report(work: Path, settings: Sequence[Setting], arms: Sequence[str], output: Path) -> None:
    """Write ``instability-table.md`` and ``instability.png``."""
    runs = {
        (setting, arm): [
            log
            for seed in range(100)
            if (log := read_run(run_folder(work, setting, arm, seed))) or run_folder(work, setting, arm, seed).is_dir()
        ]
        for setting in settings
        for arm in arms
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "instability-table.md").write_text(table(runs), encoding="utf-8")
    plot(runs, settings, output / "instability.png")


def table(runs: dict[tuple[Setting, str], list[list[dict[str, Any]]]]) -> str:
    """Return a Markdown table with a row for each setting and start; values are means over seeds."""
    lines = [
        "| learning rate | FLOPs weight | start | seeds | dead at the end | steps: dead, alike | InfoNCE: first, last "
        "| terms: query, document | nDCG@10: before, lowest from step 40 on, after (each seed) |",
        "|" + "---|" * 9,
    ]
    for (setting, arm), logs in runs.items():
        if not logs:
            continue
        found = [verdict(log) for log in logs]
        average = {name: mean(float(each[name]) for each in found) for name in found[0]}
        each_last = ", ".join(format(each["last"], ".3f") for each in found)
        lines.append(
            f"| {setting.learning_rate:g} | {setting.flops_weight:g} | {arm} | {len(found)} "
            f"| {sum(each['dead at the end'] for each in found)} of {len(found)} "
            f"| {average['dead']:.0%}, {average['alike']:.0%} "
            f"| {average['first loss']:.1f}, {average['loss']:.2f} "
            f"| {average['query terms']:.0f}, {average['document terms']:.0f} "
            f"| {average['first']:.3f}, {average['dip']:.3f}, {average['last']:.3f} ({each_last}) |"
        )
    return "\n".join(lines) + "\n"


def plot(runs: dict[tuple[Setting, str], list[list[dict[str, Any]]]], settings: Sequence[Setting], path: Path) -> None:
    """Draw a column for each setting and a row for each number; a thin line is a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(settings) + 0.8, 1.65 * len(ROWS) + 0.8), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ROWS), len(settings), sharex=True, sharey="row", squeeze=False)
    for column, setting in enumerate(settings):
        for row, (name, label) in enumerate(ROWS):
            axis = axes[row][column]
            for arm, colour in COLOURS.items():
                shown = f"{arm} adaptation" if arm in ADAPTATIONS else arm
                for number, log in enumerate(runs.get((setting, arm), [])):
                    points = [(line["step"], line[name]) for line in log if line.get(name) is not None]
                    if points:
                        axis.plot(
                            *zip(*points, strict=True),
                            color=colour,
                            linewidth=1.1,
                            alpha=0.85,
                            marker="o" if name.startswith("eval") else None,
                            markersize=3,
                            label=shown if number == 0 else None,
                        )
            if name.endswith("active_terms"):
                axis.set_yscale("symlog", linthresh=1)
                axis.set_ylim(bottom=0)
                axis.set_yticks([0, 1, 10, 100, 1000, 10000], ["0", "1", "10", "100", "1,000", "10,000"])
                axis.minorticks_off()
            elif name == "contrastive":
                axis.set_yscale("log")
                axis.set_yticks([3, 10, 30, 100, 300], ["3", "10", "30", "100", "300"])
                axis.minorticks_off()
            elif name in ("dead", "document_cosine"):
                axis.set_ylim(-0.04, 1.04)
            if column == 0:
                axis.set_ylabel(label, fontsize=9, color="#333333")
            axis.tick_params(labelsize=8, colors="#555555")
            axis.grid(axis="y", color="#e8e8e8", linewidth=0.7)
            axis.set_axisbelow(True)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
        axes[0][column].set_title(
            f"learning rate {setting.learning_rate:g}\nFLOPs weight {setting.flops_weight:g}",
            fontsize=9.5,
            loc="left",
        )
        axes[-1][column].set_xlabel("optimiser steps", fontsize=9, color="#333333")
    handles: dict[str, Any] = {}
    for axis in axes[0]:
        for handle, shown in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(shown, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=len(COLOURS),
        frameon=False,
        fontsize=10,
    )
    figure.savefig(str(path), metadata={"Software": None})
