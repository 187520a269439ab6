"""What the quantisation study compares, and where its figures lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.onnx.runtime.precision import PRECISIONS

COLLECTIONS = ("cranfield", "cacm", "nfcorpus", "scifact")
SMALL = ("cranfield", "cacm")  # where every precision is affordable
REFERENCE = "torch fp32"
TORCH_TYPES = {"torch fp32": "float32", "torch bf16": "bfloat16"}
ENGINES = (*TORCH_TYPES, *(f"onnx {precision}" for precision in PRECISIONS))
ON_LARGE = (REFERENCE, "onnx int8")
QUERY_ENCODERS = ("inference-free", "model")
NDCG, RECALL = "nDCG@10", "R@100"
MEASURES = (NDCG, RECALL)

TOP_K = (16, 32, 64, 128, 256)
SHARES = (50, 60, 70, 80, 90, 95)  # per cent of a document's weight
BITS = (3, 4, 5, 6, 8)
QUERY_TOP_K = (4, 8, 16, 32, 64, 128, 256)
PRUNING = "pruning"  # the cell beside those of the engines

Figures = dict[str, Any]


def plan(
    collections: Sequence[str] | None, engines: Sequence[str] | None, everything: bool
) -> dict[str, tuple[str, ...]]:
    """Return the engines of each collection, the reference first, since others are compared with it.

    Args:
        collections: Names of those that were asked for; None for all.
        engines: Names of those that were asked for, on each collection; None for all that a collection has by default.
        everything: Whether all engines are for all collections.
    """
    planned = {}
    for name in collections or COLLECTIONS:
        chosen = tuple(engines or (ON_LARGE if name not in SMALL and not everything else ENGINES))
        planned[name] = (REFERENCE, *(engine for engine in chosen if engine != REFERENCE))
    return planned


def cell(work: Path, collection: str, name: str) -> Path:
    """Return where the figures of an engine, or those of `PRUNING`, lie."""
    return work / "cells" / collection / f"{name.replace(' ', '-')}.json"


def read_cell(path: Path) -> Figures:
    """Return the figures of a cell, nothing if there are none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_cell(path: Path, figures: Figures) -> None:
    """Keep the figures of a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as stream:
        stream.write(json.dumps(figures, indent=1).encode() + b"\n")


def require_same_settings(work: Path, settings: Figures) -> None:
    """Keep what holds for all cells of a work folder; with other settings the program ends with a line."""
    path = work / "settings.json"
    before = read_cell(path)
    changed = [name for name, value in settings.items() if before and before.get(name) != value]
    if changed:
        listed = "; ".join(f"{name} is {settings[name]} here, {before.get(name)} there" for name in changed)
        raise SystemExit(f"{work}: holds figures of another study: {listed}; choose another --work")
    write_cell(path, settings)
