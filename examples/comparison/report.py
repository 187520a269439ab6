"""The table of the comparison, from what the runs left with their results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from examples.comparison.settings import BATCH, FIGURES, MODELS


def write_report(work: Path, collections: Sequence[str], steps: int) -> None:
    """Write ``comparison-table.md``: a row for each model, nDCG@10 and recall@100 for each collection."""
    names = [Path(name).name for name in collections]
    lines = [
        f"| {steps} steps of {BATCH} | " + " | ".join(names) + " | terms: query, document | documents/s | seconds |",
        "|" + "---|" * (len(names) + 4),
    ]
    for model in MODELS:
        path = model.folder(work) / FIGURES
        if not path.is_file():
            continue
        figures = json.loads(path.read_text(encoding="utf-8"))
        found = [figures[name] for name in collections]
        values = " | ".join(f"{one['nDCG@10']:.3f} / {one['R@100']:.3f}" for one in found)
        terms = "-"
        if model.representation == "sparse":
            terms = f"{found[0]['query terms']:.0f}, {found[0]['document terms']:.0f}"
        lines.append(
            f"| {model.name} | {values} | {terms} | {found[0]['documents per second']:.0f} | {figures['seconds']:.0f} |"
        )
    (work / "comparison-table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
