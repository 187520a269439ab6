"""The weight of a hybrid search: one that leaves nothing of one side is told before the search begins."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

_logger = logging.getLogger(__name__)

_DEFAULT = 0.1  # Pyserini's
_LARGEST = 0.001  # scores by impacts are in the tens of thousands, those of dense vectors mostly below 100


def warn_of_weight(fusion: Sequence[str]) -> None:
    """Say so where a weight ignores the sparse or the dense side of a hybrid search with our encoder.

    Args:
        fusion: The arguments of the command's part ``fusion``, without its name.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--alpha", type=float, default=_DEFAULT)
    parser.add_argument("--normalization", action="store_true")
    parser.add_argument("--weight-on-dense", action="store_true")
    try:
        given, _ = parser.parse_known_args(list(fusion))
    except argparse.ArgumentError:
        return  # the command itself refuses it
    weighted, other = ("dense", "sparse") if given.weight_on_dense else ("sparse", "dense")
    if given.alpha == 0:
        _logger.warning(
            "pyserini.search.hybrid: --alpha 0 ignores the %s scores: the ranking is the %s search's", weighted, other
        )
        return
    sparse_share = 1 / given.alpha if given.weight_on_dense else given.alpha
    if not given.normalization and sparse_share > _LARGEST:
        _logger.warning(
            "pyserini.search.hybrid: --alpha %g: scores by impacts are in the tens of thousands, so that next to "
            "nothing of the dense ones is left; add --normalization, or --alpha %g%s",
            given.alpha,
            1 / _LARGEST if given.weight_on_dense else _LARGEST,
            " or more" if given.weight_on_dense else " or less",
        )
