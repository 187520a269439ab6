"""The objective of a retriever: losses as pure functions of scores, and their weighted sum.

Every process computes the same sum over the vectors of all processes, gathered with their gradient, so that the mean of
the processes' gradients is the gradient of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.objectives.lexical import lexical_error
from pyserini_llm_sparse.training.objectives.negatives import (
    above_margin,
    not_negatives,
    own_columns,
    own_not_negatives,
    own_repeated,
    positive_columns,
)
from pyserini_llm_sparse.training.objectives.pruning import keep_top
from pyserini_llm_sparse.training.objectives.regularisation import regularise


def info_nce(scores: Tensor, positives: Tensor, excluded: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Return the mean over queries of ``-log softmax(scores / temperature)[positive]`` (van den Oord et al., 2018).

    Args:
        scores: ``[queries, documents]``.
        positives: each query's positive document, its column, ``[queries]``.
        excluded: true for a document that is no negative of the query, ``[queries, documents]``; never a query's own
            positive.
        temperature: what scores are divided by.
    """
    scaled = scores / temperature
    if excluded is not None:
        scaled = scaled.masked_fill(excluded, -torch.inf)
    return functional.cross_entropy(scaled, positives)


def margin_mse(
    scores: Tensor,
    teacher_scores: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    excluded: Tensor | None = None,
) -> Tensor:
    """Return the mean squared difference between the student's and the teacher's margins (arXiv 2010.02666).

    A margin is the positive's score less a negative's. The paper knows no temperature; without one a cosine, whose
    margins are 2 at most, could not meet those of a cross-encoder.

    Args:
        scores: of each query's own documents, the positive first, ``[queries, 1 + negatives]``.
        teacher_scores: the teacher's, ``[queries, 1 + negatives]``.
        temperature: what the student's margins are divided by.
        teacher_temperature: what the teacher's are.
        excluded: true for a negative that is left out of the mean, ``[queries, 1 + negatives]``; 0 if all are.
    """
    margins = (scores[:, :1] - scores[:, 1:]) / temperature
    teacher_margins = (teacher_scores[:, :1] - teacher_scores[:, 1:]) / teacher_temperature
    if excluded is None:
        return functional.mse_loss(margins, teacher_margins)
    counted = (~excluded[:, 1:]).to(margins.dtype)
    return ((margins - teacher_margins).square() * counted).sum() / counted.sum().clamp(min=1)


def kl_distillation(
    scores: Tensor,
    teacher_scores: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    excluded: Tensor | None = None,
) -> Tensor:
    """Return the mean over queries of ``KL(teacher || student)`` of the softmax over a query's own documents.

    Not multiplied by ``temperature^2``, as Hinton et al. (2015) do to keep a soft target's gradient comparable with
    that of a hard one at temperature 1. Here InfoNCE is taken at the student's temperature as well, so the gradients of
    both, ``(student - target) / temperature``, are comparable as they are; at a dense retriever's 0.02 the factor would
    make this part 2,500 times smaller.

    Args:
        scores: ``[queries, documents]``.
        teacher_scores: ``[queries, documents]``.
        temperature: what the student's scores are divided by.
        teacher_temperature: what the teacher's are.
        excluded: true for a document that is in neither softmax, ``[queries, documents]``; never all of a query's.
    """
    scaled, teacher_scaled = scores / temperature, teacher_scores / teacher_temperature
    if excluded is not None:
        scaled, teacher_scaled = (part.masked_fill(excluded, -torch.inf) for part in (scaled, teacher_scaled))
    student, teacher = functional.log_softmax(scaled, dim=1), functional.log_softmax(teacher_scaled, dim=1)
    if excluded is not None:  # infinity less infinity is no number
        student, teacher = student.masked_fill(excluded, 0), teacher.masked_fill(excluded, 0)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


class RetrievalObjective:
    """The loss that a run file describes: InfoNCE, distillation and regularisers, each with its weight.

    Scores are dot products in full precision, also where autocast is on. Where the run file sets ``training_top_k``, it
    is here that the vectors are cut, before all else, to each budget in turn; the model gives them whole. Dense vectors
    have no terms: they are neither cut nor regularised, so that ``representation`` is the one field in which a
    comparison's run files differ.

    Args:
        config: the run file.
    """

    def __init__(self, config: RetrieveConfig) -> None:
        self.config = config
        self._is_sparse = config.representation == "sparse"
        self._budgets = config.training_budgets if self._is_sparse else (None,)

    def __call__(
        self,
        queries: Tensor,
        documents: Tensor,
        *,
        query_keys: Tensor,
        document_keys: Tensor,
        relevant: Tensor,
        teacher_scores: Tensor | None,
        ramp: float,
        own_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, that of all processes together, and its parts.

        Args:
            queries: vectors, ``[queries, dimensions]``.
            documents: vectors, ``[queries * (1 + negatives), dimensions]``, each query's own in a row, positive first.
            query_keys: equal for equal queries, ``[queries]``.
            document_keys: equal for equal texts, ``[queries * (1 + negatives)]``.
            relevant: which documents are among the judged positives of which query, drawn or not, bool
                ``[queries, documents]``: `negatives.holds` of the positives' keys and these.
            teacher_scores: ``[queries, 1 + negatives]``; needed with distillation or a margin of false
                negatives.
            ramp: factor on the regularisers' weights, see `regularisation.ramp`.
            own_weights: what a document's own terms shall weigh, 0 for others, ``[documents, vocabulary]``; needed
                where the run file has ``lexical_weight`` or regularises expansions alone.

        Returns:
            The loss, a scalar with a gradient; and those parts that the run file asks for, weighted and detached, whose
            sum it is: ``contrastive``, ``distillation``, ``query_regulariser``, ``document_regulariser``, ``lexical``.

        Raises:
            ValueError: the numbers of queries, documents, keys or teacher scores do not fit together.
        """
        self._check(queries, documents, query_keys, document_keys, relevant, teacher_scores)
        with torch.autocast(queries.device.type, enabled=False):
            queries, documents = _full(queries), _full(documents)
            found = [
                self._parts(
                    self._pruned(queries, terms), self._pruned(documents, terms), query_keys, document_keys, relevant,
                    teacher_scores, ramp, own_weights,
                )
                for terms in self._budgets
            ]  # fmt: skip
            parts = {name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]}
            if self.config.lexical_weight and own_weights is not None:
                parts["lexical"] = self.config.lexical_weight * lexical_error(documents, own_weights)
            loss = torch.stack(list(parts.values())).sum()
        return loss, {name: part.detach() for name, part in parts.items()}

    def _parts(
        self,
        queries: Tensor,
        documents: Tensor,
        query_keys: Tensor,
        document_keys: Tensor,
        relevant: Tensor,
        teacher: Tensor | None,
        ramp: float,
        own_weights: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return the weighted parts of the loss of vectors as they are."""
        config = self.config
        expanded = documents
        if config.regularised_terms == "expansions" and own_weights is not None:
            expanded = documents * (own_weights == 0)
        parts = self._ranking_parts(queries, documents, query_keys, document_keys, relevant, teacher)
        for side, vectors, weight, threshold in (
            ("query", queries, config.query_regulariser_weight, config.query_regulariser_threshold),
            ("document", expanded, config.document_regulariser_weight, config.document_regulariser_threshold),
        ):
            if weight and self._is_sparse:
                parts[f"{side}_regulariser"] = weight * ramp * regularise(config.regulariser, vectors, threshold)
        return parts

    def _ranking_parts(
        self,
        queries: Tensor,
        documents: Tensor,
        query_keys: Tensor,
        document_keys: Tensor,
        relevant: Tensor,
        teacher: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return the weighted losses over scores."""
        config, parts, count = self.config, {}, len(queries)
        if config.false_negative_margin is not None and teacher is not None:
            relevant = relevant | above_margin(document_keys, teacher, config.false_negative_margin)
        keys = (query_keys, document_keys, relevant)
        positives = positive_columns(count, document_keys)
        if config.uses_contrast and config.in_batch_negatives:
            scores = queries @ documents.T
            contrast = info_nce(scores, positives, not_negatives(*keys), config.score_temperature)
            own = own_columns(scores)
        else:
            own = torch.einsum("qd,qnd->qn", queries, documents.view(count, -1, documents.shape[1]))
            if config.uses_contrast:
                first = torch.zeros_like(positives)
                contrast = info_nce(own, first, own_not_negatives(*keys), config.score_temperature)
        if config.uses_contrast:
            parts["contrastive"] = config.contrastive_weight * contrast
        if config.uses_teacher and teacher is not None:
            # What is relevant stays here: the teacher says how relevant.
            teacher, copies = teacher.to(own.dtype), own_repeated(count, document_keys)
            distil = margin_mse if config.distillation == "margin-mse" else kl_distillation
            distilled = distil(own, teacher, config.score_temperature, config.teacher_temperature, copies)
            parts["distillation"] = config.distillation_weight * distilled
        return parts

    def _pruned(self, vectors: Tensor, terms: int | None) -> Tensor:
        return vectors if terms is None else keep_top(vectors, terms, self.config.training_top_k_kind)

    def _check(
        self,
        queries: Tensor,
        documents: Tensor,
        query_keys: Tensor,
        document_keys: Tensor,
        relevant: Tensor,
        teacher: Tensor | None,
    ) -> None:
        count, total = len(queries), len(documents)
        each = total // count if count else 0
        fits = count and total == each * count and each and queries.shape[1:] == documents.shape[1:]
        fits = fits and query_keys.shape == (count,) and document_keys.shape == (total,)
        fits = fits and relevant.shape == (count, total)
        if fits and self.config.needs_scores:
            fits = teacher is not None and teacher.shape == (count, each)
        if not fits:
            shapes = [tuple(tensor.shape) for tensor in (queries, documents, query_keys, document_keys, relevant)]
            raise ValueError(
                f"objective: shapes do not fit: queries {shapes[0]}, documents {shapes[1]}, query keys {shapes[2]}, "
                f"document keys {shapes[3]}, relevant {shapes[4]}, teacher scores "
                f"{None if teacher is None else tuple(teacher.shape)}; give [B, D], [B * (1 + n), D], [B], "
                "[B * (1 + n)], [B, B * (1 + n)], [B, 1 + n]"
            )


def _full(vectors: Tensor) -> Tensor:
    """Widen half precision."""
    return vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
