"""A masked language model as a backbone (BERT, as in SPLADE); with the rest of this room alone in touching its library.

Between the last hidden states and the output layer a masked language model has a transform of its own (a dense layer,
an activation and a norm), which each family names in its own way. So the model computes as far as its output layer,
and that layer passes on what it is given: the states that the sparse head takes, without any logits.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.modelling.folder import is_masked


def is_masked_model(model: nn.Module) -> bool:
    """Tell whether a model of transformers is a masked language model."""
    return is_masked({"architectures": [type(model).__name__]})


def skip_output_layer(model: Any) -> None:
    """Let a model's output layer pass on what it is given; its weights stay where they are, and are saved as ever."""
    model.get_output_embeddings().forward = _same


def own_logits(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the logits ``[batch, length, vocabulary]`` that a model gives while its output layer is not skipped.

    Args:
        model: One whose output layer is skipped; it is again afterwards.
        input_ids: ``[batch, length]``.
        attention_mask: The same shape, 1 for tokens.
    """
    layer = model.get_output_embeddings()
    del layer.forward
    try:
        logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits
    finally:
        layer.forward = _same


def states_for_output_layer(model: Any, input_ids: Tensor, attention_mask: Tensor, most: int | None) -> Tensor:
    """Return the states ``[batch, length, hidden]`` that go into a model's output layer, which is skipped.

    The model counts positions itself, from the first token on: texts must be padded on the right.

    Args:
        model: One whose output layer is skipped.
        input_ids: ``[batch, length]``.
        attention_mask: The same shape, 1 for tokens.
        most: How many positions the model has, as `table_positions` says.

    Raises:
        UsageError: A text has more tokens than the model has positions.
    """
    if most is not None and input_ids.shape[1] > most:
        raise UsageError(
            f"{type(model).__name__}: a text of {input_ids.shape[1]} tokens: the model has {most} positions; lower "
            "query_max_length or document_max_length"
        )
    states: Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits
    return states


def table_positions(model: nn.Module) -> int | None:
    """Return how many tokens a text can have; None if positions are not looked up in a table."""
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    table = next((table for table in tables if isinstance(table, nn.Embedding)), None)
    if table is None:
        return None
    # RoBERTa counts from the position after that of padding.
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _same(states: Tensor) -> Tensor:
    return states
