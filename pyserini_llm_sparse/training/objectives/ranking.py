"""The objective of a retriever: losses as pure functions of scores, and their weighted sum.

Every process computes the same sum over the vectors of all processes, gathered with their gradient, so that the mean of
the processes' gradients is the gradient of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pyserini_llm_sparse.training.config.fields import RetrieveConfig
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


def margin_mse(scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """Return the mean squared difference between the student's and the teacher's margins (arXiv 2010.02666).

    A margin is the positive's score less a negative's. Neither is scaled by a temperature.

    Args:
        scores: of each query's own documents, the positive first, ``[queries, 1 + negatives]``.
        teacher_scores: the teacher's, ``[queries, 1 + negatives]``.
    """
    margins = scores[:, :1] - scores[:, 1:]
    teacher_margins = teacher_scores[:, :1] - teacher_scores[:, 1:]
    return functional.mse_loss(margins, teacher_margins)


def kl_distillation(
    scores: Tensor, teacher_scores: Tensor, temperature: float = 1.0, teacher_temperature: float = 1.0
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
    """
    student = functional.log_softmax(scores / temperature, dim=1)
    teacher = functional.log_softmax(teacher_scores / teacher_temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def not_negatives(query_keys: Tensor, document_keys: Tensor) -> Tensor:
    """Say which documents of a batch may not be taken as a query's negatives.

    These are the documents whose text is the positive of this query, in its own row or another row of the same query.

    Args:
        query_keys: equal for equal queries, ``[queries]``.
        document_keys: equal for equal texts, ``[queries * (1 + negatives)]``, each query's own in a row, the positive
            first.

    Returns:
        ``[queries, documents]``, true for such a document; false for the query's own positive itself.
    """
    positives = _positive_columns(query_keys, document_keys)
    queries, query = query_keys.unique(return_inverse=True)
    texts, text = document_keys.unique(return_inverse=True)
    relevant = torch.zeros(len(queries), len(texts), dtype=torch.bool, device=document_keys.device)
    relevant[query, text[positives]] = True
    found = relevant[query][:, text]
    found[torch.arange(len(query), device=found.device), positives] = False
    return found


def _positive_columns(query_keys: Tensor, document_keys: Tensor) -> Tensor:
    """Return the columns of the positives, ``[queries]``."""
    each = len(document_keys) // max(len(query_keys), 1)
    return torch.arange(len(query_keys), device=document_keys.device) * each


class RetrievalObjective:
    """The loss that a run file describes: InfoNCE, distillation and regularisers, each with its weight.

    Scores are dot products in full precision, also where autocast is on. Where the run file sets ``training_top_k``, it
    is here that the vectors are cut, before all else; the model gives them whole. Dense vectors have no terms: they are
    neither cut nor regularised, so that ``representation`` is the one field in which a comparison's run files differ.

    Args:
        config: the run file.
    """

    def __init__(self, config: RetrieveConfig) -> None:
        self.config = config
        self._is_sparse = config.representation == "sparse"

    def __call__(
        self,
        queries: Tensor,
        documents: Tensor,
        *,
        query_keys: Tensor,
        document_keys: Tensor,
        teacher_scores: Tensor | None,
        ramp: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, that of all processes together, and its parts.

        Args:
            queries: vectors, ``[queries, dimensions]``.
            documents: vectors, ``[queries * (1 + negatives), dimensions]``, each query's own in a row, positive first.
            query_keys: equal for equal queries, ``[queries]``.
            document_keys: equal for equal texts, ``[queries * (1 + negatives)]``.
            teacher_scores: ``[queries, 1 + negatives]``; needed with distillation only.
            ramp: factor on the regularisers' weights, see `regularisation.ramp`.

        Returns:
            The loss, a scalar with a gradient; and those parts that the run file asks for, weighted and detached, whose
            sum it is: ``contrastive``, ``distillation``, ``query_regulariser``, ``document_regulariser``.

        Raises:
            ValueError: the numbers of queries, documents, keys or teacher scores do not fit together.
        """
        self._check(queries, documents, query_keys, document_keys, teacher_scores)
        with torch.autocast(queries.device.type, enabled=False):
            queries, documents = self._pruned(_full(queries)), self._pruned(_full(documents))
            parts = self._ranking_parts(queries, documents, query_keys, document_keys, teacher_scores)
            weights = {
                "query_regulariser": (self.config.query_regulariser_weight, queries),
                "document_regulariser": (self.config.document_regulariser_weight, documents),
            }
            for name, (weight, vectors) in weights.items():
                if weight and self._is_sparse:
                    parts[name] = weight * ramp * regularise(self.config.regulariser, vectors)
            loss = torch.stack(list(parts.values())).sum()
        return loss, {name: part.detach() for name, part in parts.items()}

    def _ranking_parts(
        self, queries: Tensor, documents: Tensor, query_keys: Tensor, document_keys: Tensor, teacher: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the weighted losses over scores."""
        config, parts = self.config, {}
        rows = torch.arange(len(queries), device=queries.device)
        positives = _positive_columns(query_keys, document_keys)
        excluded = not_negatives(query_keys, document_keys) if config.uses_contrast else None
        if config.uses_contrast and config.in_batch_negatives:
            scores = queries @ documents.T
            parts["contrastive"] = info_nce(scores, positives, excluded, config.score_temperature)
            own = scores.view(len(rows), len(rows), -1)[rows, rows]
        else:
            own = torch.einsum("qd,qnd->qn", queries, documents.view(len(rows), -1, documents.shape[1]))
            if excluded is not None:
                excluded = excluded.view(len(rows), len(rows), -1)[rows, rows]
                parts["contrastive"] = info_nce(own, torch.zeros_like(rows), excluded, config.score_temperature)
        if config.uses_contrast:
            parts["contrastive"] = config.contrastive_weight * parts["contrastive"]
        if config.uses_teacher and teacher is not None:
            teacher = teacher.to(own.dtype)
            if config.distillation == "margin-mse":
                distilled = margin_mse(own, teacher)
            else:
                distilled = kl_distillation(own, teacher, config.score_temperature, config.teacher_temperature)
            parts["distillation"] = config.distillation_weight * distilled
        return parts

    def _pruned(self, vectors: Tensor) -> Tensor:
        terms = self.config.training_top_k
        if terms is None or not self._is_sparse:
            return vectors
        return keep_top(vectors, terms, self.config.training_top_k_kind)

    def _check(
        self, queries: Tensor, documents: Tensor, query_keys: Tensor, document_keys: Tensor, teacher: Tensor | None
    ) -> None:
        count = len(queries)
        each = len(documents) // count if count else 0
        fits = count and len(documents) == each * count and each and queries.shape[1:] == documents.shape[1:]
        fits = fits and query_keys.shape == (count,) and document_keys.shape == (len(documents),)
        if fits and self.config.uses_teacher:
            fits = teacher is not None and teacher.shape == (count, each)
        if not fits:
            shapes = [tuple(tensor.shape) for tensor in (queries, documents, query_keys, document_keys)]
            raise ValueError(
                f"objective: shapes do not fit: queries {shapes[0]}, documents {shapes[1]}, query keys {shapes[2]}, "
                f"document keys {shapes[3]}, teacher scores {None if teacher is None else tuple(teacher.shape)}; give "
                "[B, D], [B * (1 + n), D], [B], [B * (1 + n)], [B, 1 + n]"
            )


def _full(vectors: Tensor) -> Tensor:
    """Widen half precision."""
    return vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
