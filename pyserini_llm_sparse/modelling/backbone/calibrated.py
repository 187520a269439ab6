"""The calibrated head: a vector that, subtracted from each row of the output layer, makes its logits sparse.

Why that leaves the language model what it is, says the module `head_shift`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone

POSITIONS_AT_A_TIME = 64  # with 128,000 terms their logits take 33 MB
RIDGE = 1e-3  # of the mean square of a hidden state's channel
ROWS_AT_A_TIME = 4096


@torch.no_grad()
def fit_head_shift(backbone: Backbone, states: Iterable[Tensor], kth_logit: int) -> Tensor:
    """Return the vector v whose product with a state comes closest to the state's k-th largest logit.

    Least squares with a ridge of `RIDGE`, solved in float64.

    Args:
        backbone: The model.
        states: Hidden states of positions, each ``[positions, hidden]``; see `language_model.Backbone.hidden`.
        kth_logit: Which of a position's logits shall become 0, about.

    Returns:
        float32 ``[hidden]`` on the CPU.

    Raises:
        DataError: There is no position, or a state is not finite.
    """
    width = backbone.head_weight.shape[1]
    squares = torch.zeros(width, width, dtype=torch.float64)
    products, positions = torch.zeros(width, dtype=torch.float64), 0
    for given in states:
        for block in given.split(POSITIONS_AT_A_TIME):
            logits = (block @ backbone.head_weight.T).float()
            if backbone.head_bias is not None:
                logits += backbone.head_bias.float()
            wanted = logits.topk(min(kth_logit, logits.shape[1]), dim=1).values[:, -1].double().cpu()
            known = block.double().cpu()
            squares += known.T @ known
            products += known.T @ wanted
            positions += len(block)
    if not positions or not bool(torch.isfinite(squares).all()):
        raise DataError("calibration: no finite hidden state: no text has a token, or the model overflows")
    squares.diagonal().add_(RIDGE * squares.diagonal().mean())
    return torch.linalg.solve(squares, products).float()


@torch.no_grad()
def shift_head(backbone: Backbone, shift: Tensor) -> None:
    """Subtract the vector from each row of a model's output layer, which is no longer tied to the input embedding.

    Raises:
        DataError: The vector is that of another model.
    """
    weight = backbone.head_weight
    if shift.shape != weight.shape[1:]:
        raise DataError(
            f"head_shift: {len(shift)} numbers for hidden states of {weight.shape[1]}: it is that of another model; "
            "restore the file"
        )
    shift = shift.to(weight.device)
    shifted = torch.empty_like(weight) if backbone.ties_embeddings else weight
    for start in range(0, len(weight), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        shifted[rows] = shifted_rows(weight[rows], shift).to(weight.dtype)
    if shifted is not weight:
        backbone.model.get_output_embeddings().weight = nn.Parameter(shifted, requires_grad=False)
        backbone.model.config.tie_word_embeddings = False


def shifted_rows(weight: Tensor, shift: Tensor) -> Tensor:
    """Return rows of the output layer less the vector, computed in float32."""
    return weight.to(shift.dtype) - shift
