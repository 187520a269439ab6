"""The figure of a training run: loss parts, active terms, development measures and signs of collapse, from its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's
COLOUR_OF = {"query": COLOURS[0], "document": COLOURS[1], "loss": "#333333"}
NOT_LOSSES = ("step", "epoch", "learning_rate", "grad_norm", "total_flos", "num_input_tokens_seen")


@dataclass(frozen=True)
class Panel:
    """One chart: its title, the unit of its values, and ``{label: [(step, value), ...]}``."""

    title: str
    unit: str
    series: dict[str, list[tuple[float, float]]]


def plot_training(log: Sequence[Mapping[str, Any]], path: str | Path, kept: int | None = None) -> Path | None:
    """Draw the figure of a run.

    Args:
        log: Log lines of the Trainer, each with ``step``; what a line does not have is not drawn.
        path: Where the picture goes.
        kept: The step whose checkpoint the result is; None if there was no choice.

    Returns:
        The path; None if the log holds nothing to draw.
    """
    drawn = panels(log)
    if not drawn:
        return None
    # No pyplot: it would choose a window system and keep state in the process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = 1 if len(drawn) == 1 else 2
    rows = -(-len(drawn) // columns)
    figure = Figure(
        figsize=(5.2 * columns, 3.1 * rows), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08), dpi=130
    )
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(len(drawn))]
    last = max(step for panel in drawn for points in panel.series.values() for step, _ in points)
    for axis, panel in zip(axes, drawn, strict=True):
        _draw(axis, panel, last, kept)
    for axis in axes[-columns:]:
        axis.set_xlabel("optimiser steps", color="#555555", fontsize=9)
    figure.savefig(str(path), metadata={"Software": None})
    return Path(path)


def panels(log: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Sort the numbers of a log into charts; those without a number are left out."""
    found = {
        "loss": Panel("Loss and its parts", "loss", {}),
        "terms": Panel("Active terms", "terms a text", {}),
        "dev": Panel("Development set", "measure", {}),
        "health": Panel("Signs of collapse", "cosine, share", {}),
    }
    for line in log:
        if "step" not in line or any(name.startswith("train_") for name in line):
            continue  # the Trainer's summary at the end
        for name, value in line.items():
            place = _place(name)
            if place is None or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            kind, label = place
            found[kind].series.setdefault(label, []).append((float(line["step"]), float(value)))
    return [panel for panel in found.values() if panel.series]


def _place(name: str) -> tuple[str, str] | None:
    """Return the chart that a logged number belongs to, and its label there; None for none."""
    evaluated = name.startswith("eval_")
    bare = name.removeprefix("eval_")
    label = bare.replace("_", " ")
    if bare in NOT_LOSSES or bare.endswith(("runtime", "_per_second", "preparation_time")):
        return None
    if bare.endswith("_active_terms"):
        side = label.removesuffix(" active terms")
        return "terms", f"{side}, development set" if evaluated else side
    if "cosine" in bare or bare.startswith("dead_"):
        return "health", label
    if evaluated and "loss" not in bare and ("@" in bare or not bare.islower()):
        return "dev", bare
    return "loss", f"{label}, held out" if evaluated else label


def _draw(axis: Any, panel: Panel, last: float, kept: int | None) -> None:
    """Draw one chart; a side has the same colour in all of them.

    Measures also show, as dotted lines, what they were before training, and as a vertical one the result's step.
    """
    spare = iter(COLOURS if panel.unit == "measure" else COLOURS[2:])
    for label, points in panel.series.items():
        steps, values = zip(*sorted(points), strict=True)
        side = next((side for side in COLOUR_OF if label.startswith(side)), None)
        colour = COLOUR_OF[side] if side else next(spare, "#999999")
        if panel.unit == "measure" and steps[0] == 0 and len(steps) > 1:
            axis.axhline(values[0], color=colour, linewidth=0.9, linestyle=":")
        axis.plot(
            steps, values, label=label, color=colour, linewidth=1.4,
            marker="o" if len(points) <= 40 else None, markersize=2.8,
            linestyle="--" if label.endswith(("development set", "held out")) or label.startswith("dead") else "-",
        )  # fmt: skip
    if panel.unit == "measure" and kept is not None:
        axis.axvline(kept, color="#999999", linewidth=0.9, linestyle="--", label=f"the result, step {kept}", zorder=0)
    if _spans_decades(panel):
        axis.set_yscale("log")
        highest = max(value for points in panel.series.values() for _, value in points)
        axis.set_ylim(bottom=max(axis.get_ylim()[0], highest / 3e4))  # a ramp starts near 0
    elif panel.unit == "terms a text":
        axis.set_ylim(bottom=0)
    axis.set_xlim(-0.02 * last, last * 1.02 if last else 1)
    axis.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    axis.set_ylabel(panel.unit, color="#555555", fontsize=9)
    axis.tick_params(colors="#555555", labelsize=8)
    axis.grid(axis="y", color="#e5e5e5", linewidth=0.7)
    axis.set_axisbelow(True)
    for edge in ("top", "right"):
        axis.spines[edge].set_visible(False)
    axis.legend(frameon=False, fontsize=8, ncols=2 if len(panel.series) > 3 else 1)


def _spans_decades(panel: Panel) -> bool:
    """Tell whether values are better read on a logarithmic scale: all above 0, and far apart."""
    values = [value for points in panel.series.values() for _, value in points]
    return panel.unit in ("loss", "terms a text") and min(values) > 0 and max(values) > 50 * min(values)
