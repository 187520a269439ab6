"""The language model that is adapted: one forward pass gives next-token losses."""

from __future__ import annotations

from torch import Tensor

from pyserini_llm_sparse.modelling.backbone.calibrated import shifted_rows
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
from pyserini_llm_sparse.training.objectives.language_modelling import next_token_loss
from pyserini_llm_sparse.training.retriever.model import TrainableModel


class AdaptationModel(TrainableModel):
    """Predicts tokens, from logits and, if that is trained, from their sparse weights.

    Attributes:
        sparse_weight: Weight of the second part of the loss; 0 leaves it out.
    """

    def __init__(self, backbone: Backbone, sparse_weight: float, head_shift: Tensor | None = None) -> None:
        super().__init__(backbone, head_shift)
        self.sparse_weight = sparse_weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of the logits, and that of ``log1p(relu(logits))`` (0 if it is left out).

        Args:
            input_ids: ``[batch, length]``.
            attention_mask: The same shape, 1 for tokens.
            targets: The same shape, the token that each position predicts, or -100.
        """
        hidden = self._hidden(input_ids, attention_mask)
        head = self.backbone
        weight = head.head_weight if self.head_shift is None else shifted_rows(head.head_weight, self.head_shift)
        return next_token_loss(hidden, weight, targets, self.sparse_weight, head.head_bias)
