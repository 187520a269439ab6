"""The models that are trained, and the retriever among them: one forward pass gives the vectors of a batch.

Each is the root module that DDP, FSDP or DeepSpeed wraps, so the weight of the output layer, which is used without its
module, is touched inside the root's forward pass only, where it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.backbone.head import activate, fold_terms, max_logits
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone, checkpoint_activations
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.objectives.lexical import bm25_weights, with_gradient_below_zero
from pyserini_llm_sparse.training.retriever.dense_pooling import last_token, normalised_mean, pooled
from pyserini_llm_sparse.training.retriever.term_statistics import TermStatistics


class TrainableModel(nn.Module):
    """The part that both models share.

    Attributes:
        backbone: The causal language model and how it is used; ``backbone.model`` is also the module ``model`` of this
            one, with peft's model around it in LoRA training.
        head_shift: ``[hidden]``, the vector of a calibrated head, which is trained; None without one.
        rebuild: Makes the model as it was before training; a sharded model is collected into it.
    """

    rebuild: Callable[[], TrainableModel]

    def __init__(self, backbone: Backbone, head_shift: Tensor | None = None) -> None:
        super().__init__()
        self.head_shift = None if head_shift is None else nn.Parameter(head_shift.float())
        self.model: nn.Module = backbone.model
        self.backbone = backbone
        # FSDP shards by these, as it does with a model of transformers.
        self._no_split_modules = getattr(backbone.model, "_no_split_modules", None)

    @property
    def config(self) -> Any:
        """The configuration of the language model, which Trainer and DeepSpeed ask for."""
        return self.backbone.model.config

    def trained_weights(self, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the weights that are trained, by name, on the CPU (themselves, not copies, if they are there).

        Args:
            state: Where to take them from rather than from the module, such as a sharded model's collected state.
        """
        wanted = dict(self.named_parameters()) if state is None else state
        names = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        return {name: wanted[name].detach().cpu().contiguous() for name in names}

    @torch.no_grad()
    def load_trained_weights(self, weights: Mapping[str, Tensor], where: str) -> Self:
        """Put trained weights back, all of them or none.

        Args:
            weights: What `trained_weights` returned.
            where: Their place, for the message.

        Raises:
            DataError: They are those of another model, or were trained with other settings.
        """
        own = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        differing = sorted(
            {name for name, weight in weights.items() if name in own and own[name].shape != weight.shape}
            | (set(own) ^ set(weights))
        )
        if differing:
            raise DataError(
                f"{where}: {len(differing)} trained weights do not fit this run ({', '.join(differing[:3])}): model, "
                "lora_rank, lora_targets, train_head or query_encoder are others; resume with the run's own settings"
            )
        for name, weight in weights.items():
            own[name].copy_(weight)
        return self

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """Recompute activations in the backward pass; called by the Trainer."""
        checkpoint_activations(self.backbone, **settings)

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        """The same under its name before transformers 5.23."""
        checkpoint_activations(self.backbone, **settings)

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the last hidden states, for a text without content those of one meaningless position."""
        if not input_ids.shape[1]:
            input_ids, attention_mask = (functional.pad(tensor, (0, 1)) for tensor in (input_ids, attention_mask))
        # A softmax over no position at all is not a number, and would spoil the gradient of the other texts.
        first = torch.arange(input_ids.shape[1], device=input_ids.device) == 0
        empty = ~attention_mask.bool().any(1, keepdim=True)
        hidden = self.backbone.hidden(input_ids, torch.where(empty & first, 1, attention_mask))
        if hidden.device.type != "cpu" and torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        return hidden


class RetrievalModel(TrainableModel):
    """Encodes queries and documents, both in one forward pass.

    Attributes:
        spec: The encoding spec, without fingerprint; what it says beyond this class (prefix, BOS, truncation, top-k) is
            the tokenization's and the encoder's.
        representation: ``sparse`` or ``dense``.
        dense_pooling: ``last-token``, ``mean`` or ``normalised-mean``.
        query_weights: ``[vocabulary]``, the table of inference-free queries; a parameter if it is learned, None if the
            model encodes the queries. Negative weights count as 0; a term at 0 gets no gradient and stays there.
    """

    query_weights: nn.Parameter | Tensor | None
    allowed: Tensor
    term_of: Tensor | None
    term_weights: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        spec: EncodingSpec,
        allowed: Tensor,
        term_of: Tensor | None = None,
        *,
        representation: str = "sparse",
        dense_pooling: str = "last-token",
        query_weights: Tensor | None = None,
        learns_query_weights: bool = False,
        head_shift: Tensor | None = None,
        statistics: TermStatistics | None = None,
    ) -> None:
        """Put a model together; `building.build_model` makes one of a run file.

        Args:
            backbone: The language model.
            spec: The encoding spec.
            allowed: bool ``[vocabulary]``, false for ids whose logits do not count.
            term_of: int64 ``[vocabulary]``, the id that stands for the term of each; None where each is its own.
            representation: ``sparse`` or ``dense``.
            dense_pooling: ``last-token``, ``mean`` or ``normalised-mean``.
            query_weights: Where the table of inference-free queries starts.
            learns_query_weights: Whether it is trained.
            head_shift: ``[hidden]``, where the vector of a calibrated head starts.
            statistics: Of the training documents, where own terms are held near BM25's weights.
        """
        super().__init__(backbone, head_shift)
        self.spec = spec
        self.representation = representation
        self.dense_pooling = dense_pooling
        self.register_buffer("allowed", allowed, persistent=False)
        self.register_buffer("term_of", term_of, persistent=False)
        self.register_buffer("term_weights", None if statistics is None else statistics.weights, persistent=False)
        self.mean_length = 1.0 if statistics is None else statistics.mean_length
        if query_weights is not None and learns_query_weights:
            self.query_weights = nn.Parameter(query_weights.float())
        else:
            self.register_buffer("query_weights", None if query_weights is None else query_weights.float(), False)

    def forward(
        self,
        query_input_ids: Tensor | None = None,
        query_attention_mask: Tensor | None = None,
        query_pool_mask: Tensor | None = None,
        document_input_ids: Tensor | None = None,
        document_attention_mask: Tensor | None = None,
        document_pool_mask: Tensor | None = None,
        query_order: Tensor | None = None,
        query_widths: Sequence[int] = (),
        document_order: Tensor | None = None,
        document_widths: Sequence[int] = (),
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the vectors of queries and documents, None for a side that is not given.

        Args:
            query_input_ids: ``[queries, length]``.
            query_attention_mask: The same shape, 1 for tokens.
            query_pool_mask: The same shape, 1 for positions that are pooled; for inference-free queries, their terms.
            document_input_ids: ``[documents, length]``.
            document_attention_mask: As for queries.
            document_pool_mask: As for queries.
            query_order: If they go through the model in groups of similar length, the queries in the order in which
                they are grouped, ``[queries]``; see `batching.length_groups`.
            query_widths: The length of each group.
            document_order: As for queries.
            document_widths: As for queries.

        Returns:
            float32 ``[queries, dimensions]`` and ``[documents, dimensions]``. A sparse vector has a weight for each id
            of the vocabulary, 0 for those that never become terms; a dense one has length 1, or less as a
            ``normalised-mean``.
        """
        queries = documents = None
        if query_input_ids is not None and query_attention_mask is not None and query_pool_mask is not None:
            if self.query_weights is not None:
                queries = self._weighed(query_input_ids, query_pool_mask, self.query_weights)
            else:
                masks = (query_input_ids, query_attention_mask, query_pool_mask)
                queries = self._encode_groups(*masks, query_order, query_widths)
        if document_input_ids is not None and document_attention_mask is not None and document_pool_mask is not None:
            masks = (document_input_ids, document_attention_mask, document_pool_mask)
            documents = self._encode_groups(*masks, document_order, document_widths)
        return queries, documents

    def own_weights(self, input_ids: Tensor, pool_mask: Tensor) -> Tensor:
        """Return what BM25 would have documents' own terms weigh, or without statistics how often each occurs.

        Args:
            input_ids: ``[documents, length]``.
            pool_mask: The same shape, 1 for positions that are pooled.

        Returns:
            float32 ``[documents, vocabulary]``, 0 for terms that are not in the text.
        """
        counts = torch.where(self.allowed, self._counts(input_ids, pool_mask), 0)
        return counts if self.term_weights is None else bm25_weights(counts, self.term_weights, self.mean_length)

    def _counts(self, input_ids: Tensor, pool_mask: Tensor) -> Tensor:
        """Return how often each term occurs, float32 ``[texts, vocabulary]``."""
        terms = input_ids if self.term_of is None else self.term_of[input_ids]
        counts = torch.zeros(len(terms), len(self.allowed), device=terms.device)
        return counts.scatter_add_(1, terms, pool_mask.to(counts.dtype))

    def learned_query_weights(self) -> Tensor | None:
        """Return the table as it is to be saved: float32 ``[vocabulary]``, never negative, 0 where no term can be."""
        if self.query_weights is None:
            return None
        return torch.where(self.allowed, torch.relu(self.query_weights.detach()), 0).cpu()

    def _encode_groups(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pool_mask: Tensor,
        order: Tensor | None,
        widths: Sequence[int],
    ) -> Tensor:
        """Encode texts in groups of similar length; padded on the right, a group ends where its longest text does."""
        if order is None:
            return self._encode(input_ids, attention_mask, pool_mask)
        groups = zip(order.tensor_split(len(widths)), widths, strict=True)
        found = [
            self._encode(input_ids[rows, :width], attention_mask[rows, :width], pool_mask[rows, :width])
            for rows, width in groups
        ]
        return torch.cat(found)[order.argsort()]

    def _encode(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        hidden = self._hidden(input_ids, attention_mask)
        if not input_ids.shape[1]:
            pool_mask = functional.pad(pool_mask, (0, 1))
            attention_mask = pool_mask
        if self.representation == "dense":
            if self.dense_pooling == "normalised-mean":
                return normalised_mean(hidden, pool_mask)
            return pooled(hidden, pool_mask if self.dense_pooling == "mean" else last_token(attention_mask))
        head = self.backbone
        largest = max_logits(hidden, head.head_weight, pool_mask, head.head_bias, self.head_shift)
        largest = fold_terms(largest, self.allowed, self.term_of)
        weights = activate(largest, self.spec.logit_scale)
        if self.term_weights is None:
            return weights
        return with_gradient_below_zero(weights, largest, self._counts(input_ids, pool_mask) > 0)

    def _weighed(self, input_ids: Tensor, pool_mask: Tensor, table: Tensor) -> Tensor:
        """Weight the terms that queries contain from the table."""
        counts = self._counts(input_ids, pool_mask)
        if not self.spec.query_term_counts:
            counts = counts.clamp(max=1)
        return counts * torch.where(self.allowed, torch.relu(table.float()), 0)
