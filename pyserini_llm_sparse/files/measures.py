"""Measures of effectiveness by their names, which are those of ir_measures."""

from __future__ import annotations

import warnings
from typing import Any

from pyserini_llm_sparse.errors import PrerequisiteError, UsageError


def parse_measure(name: str) -> Any:
    """Return a measure of ir_measures by its name, such as ``nDCG@10``.

    Raises:
        PrerequisiteError: ir_measures is not installed.
        UsageError: There is no such measure.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise PrerequisiteError(
            "evaluation: ir_measures is not installed: it computes the measures; pip install "
            "'pyserini-llm-sparse[eval]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it parses names with what Python 3.14 drops
            return ir_measures.parse_measure(name)
    except (ValueError, NameError, SyntaxError, TypeError) as error:
        raise UsageError(f"{name}: ir_measures has no such measure; write it like nDCG@10, RR@10, R@100, AP") from error
