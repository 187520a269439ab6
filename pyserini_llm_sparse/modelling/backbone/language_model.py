"""A language model and its attention mode as the backbone of an encoder.

Attention in both directions is ``config.is_causal = False``, which transformers understands from 5.2 on. Earlier
versions silently ignore it: down to 4.57, which optimum needs, they are given a mask of four dimensions instead, and
are used for encoding alone. A probe at load finds out whatever gives other vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pyserini_llm_sparse.modelling.backbone import masked
from pyserini_llm_sparse.modelling.backbone.older_transformers import obey_direction
from pyserini_llm_sparse.modelling.spec import Attention

OTHER_FAMILIES = "use a Llama, Mistral, Qwen2 or Qwen3 checkpoint, or for SPLADE a BERT"


@dataclass(frozen=True)
class Backbone:
    """A language model that gives the states that go into its output layer, and the weights of that layer.

    Attributes:
        model: The transformers model, an adapter merged into it; in training, peft's model around it.
        attention: ``causal`` (echo, too, is causal) or ``bidirectional``.
    """

    model: PreTrainedModel
    attention: Attention

    def __post_init__(self) -> None:
        """Have a masked language model give states instead of logits."""
        if self.is_masked:
            masked.skip_output_layer(self.model)

    @property
    def is_masked(self) -> bool:
        """Whether this is a masked language model: BERT and its relatives."""
        return masked.is_masked_model(_without_adapter(self.model))

    @property
    def head_weight(self) -> Tensor:
        """The output embedding, ``[vocabulary, hidden]``."""
        return self.model.get_output_embeddings().weight

    @property
    def head_bias(self) -> Tensor | None:
        """The output layer's bias ``[vocabulary]``; None for most causal families, there for masked ones."""
        return getattr(self.model.get_output_embeddings(), "bias", None)

    @property
    def ties_embeddings(self) -> bool:
        """Whether the input embedding is the output embedding."""
        return self.model.get_input_embeddings().weight is self.head_weight

    @property
    def vocabulary_size(self) -> int:
        """Rows of the output embedding; can be more than the tokenizer has tokens."""
        return int(self.head_weight.shape[0])

    @property
    def positions(self) -> int | None:
        """How many tokens of a text the model has positions for, or was trained on; None if it does not say."""
        return self._table_positions or getattr(self.model.config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head_weight.device

    @cached_property
    def _table_positions(self) -> int | None:
        return masked.table_positions(_without_adapter(self.model)) if self.is_masked else None

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the states that go into the output layer, ``[batch, length, hidden]``.

        Positions are counted over what the mask keeps, so a text's states do not depend on the side or amount of its
        padding; a masked language model takes padding on the right only. States of masked positions have no meaning.

        Args:
            input_ids: ``[batch, length]``.
            attention_mask: ``[batch, length]``, 1 for tokens and 0 for padding.

        Raises:
            UsageError: A masked language model has fewer positions than a text has tokens.
        """
        if self.is_masked:
            model, most = _without_adapter(self.model), self._table_positions
            return masked.states_for_output_layer(model, input_ids, attention_mask, most)
        positions = (attention_mask.long().cumsum(-1) - 1).clamp_(min=0)
        # peft's own `base_model` would compute logits.
        model = _without_adapter(self.model)
        states: Tensor = model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return states


def freeze_head(backbone: Backbone) -> None:
    """Exclude the output layer from training; where it is tied to the input embedding, that one, too."""
    backbone.model.get_output_embeddings().requires_grad_(False)


def checkpoint_activations(backbone: Backbone, **settings: Any) -> None:
    """Recompute activations in the backward pass rather than keep them; `settings` are transformers' own."""
    model = _without_adapter(backbone.model)
    # With frozen embeddings nothing that enters the first layer has a gradient, and reentrant checkpointing has none.
    model.enable_input_require_grads()
    name = "activation_checkpointing_enable" if hasattr(model, "activation_checkpointing_enable") else None
    getattr(model, name or "gradient_checkpointing_enable")(**settings)  # the name before transformers 5.23


def _without_adapter(model: Any) -> Any:
    """Return transformers' model, from peft's model around it where there is one; the adapter's layers stay in it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def set_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Make a causal language model attend to earlier positions only, or to all; a masked one attends to all anyway."""
    if masked.is_masked_model(model):
        return
    causal = attention != "bidirectional"
    model.config.is_causal = causal
    for module in model.modules():
        if isinstance(getattr(module, "is_causal", None), bool):
            module.is_causal = causal  # type: ignore[assignment]  # for kernels that are given no mask when there is no padding
    obey_direction(model.base_model)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing a progress bar over ours while it reads or writes weights."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
