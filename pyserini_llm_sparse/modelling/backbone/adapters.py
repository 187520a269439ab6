"""A peft adapter: merged into the model that it was trained on, or put in to be trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, ResourceError, UsageError, one_line
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
from pyserini_llm_sparse.modelling.tensors import saved_vocabulary


def merge_adapter(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """Merge a peft adapter into its base, with the embedding and output layer that it may have been saved with.

    Where the adapter's vocabulary has another size than the base's, that is resized first, as peft asks of its callers.

    Args:
        model: The base, which is changed.
        path: The adapter's directory.

    Raises:
        PrerequisiteError: peft is not installed.
        ResourceError: A file is missing.
        DataError: The adapter is that of another base, or its files are damaged.
    """
    embedding: Any = model.get_input_embeddings()
    rows, own_rows = saved_vocabulary(path), int(embedding.weight.shape[0])
    adapted, embeddings = _loaded(model, path, rows)
    _require_saved_embeddings(path, adapted, embeddings, rows, own_rows)
    _separate_embeddings(adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shared layers, which are none any more
        merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def continued_adapter(backbone: Backbone, path: Path, *, dropout: float, trains_head: bool) -> Backbone:
    """Put an adapter that was trained before into its base, to be trained on: it alone, and the head if wanted.

    Args:
        backbone: The base.
        path: The adapter's directory.
        dropout: Dropout before the adapter; all else is as it was.
        trains_head: Whether the head is trained, too.

    Raises:
        UsageError: The adapter was saved with embeddings of its own.
        LlmSparseError: As `merge_adapter`.
    """
    if saved_vocabulary(path) is not None:
        raise UsageError(
            f"{path}: lora: continue: the adapter was saved with embeddings of its own, which is not supported; "
            "set lora: new and a lora_rank, which merges it first"
        )
    adapted, _ = _loaded(backbone.model, path, dropout=dropout)
    return _in_training(adapted, backbone, trains_head)


def _loaded(
    model: PreTrainedModel, path: Path, rows: int | None = None, dropout: float | None = None
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return peft's model around a base, all of its weights there, and the embeddings that were saved with it.

    Args:
        model: The base, which is changed.
        path: The adapter's directory.
        rows: Size that the base's vocabulary has to have; None to leave it.
        dropout: For an adapter that is to be trained.
    """
    try:
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise PrerequisiteError(f"{path}: an adapter: peft is not installed; pip install peft") from error
    from safetensors import SafetensorError, safe_open

    embedding: Any = model.get_input_embeddings()
    options: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            # peft asks transformers for attributes that were renamed, and warns of what is checked below
            warnings.simplefilter("ignore")
            if rows not in (None, int(embedding.weight.shape[0])):
                model.resize_token_embeddings(rows, mean_resizing=False)
            if dropout is not None:
                settings: Any = PeftConfig.from_pretrained(str(path))
                settings.lora_dropout = dropout
                options = {"config": settings, "is_trainable": True}
            adapted = PeftModel.from_pretrained(model, str(path), use_safetensors=True, **options)
        with safe_open(path / "adapter_model.safetensors", framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ResourceError(f"{path}: cannot load the adapter: {one_line(error)}; check the directory") from error
    except SafetensorError as error:
        raise DataError(
            f"{path}: a safetensors file is damaged: {one_line(error)}; download or copy it again"
        ) from error
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: the adapter does not fit its base: {one_line(error)}; name the right one: "
            "csplade:ADAPTER,base=PATH_OR_HUB_ID"
        ) from error
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    embeddings = set(get_peft_model_state_dict(adapted, save_embedding_layers=True)) - expected
    if differing := set(stored) - embeddings ^ expected:
        raise DataError(
            f"{path}: the adapter does not fit its base: {len(differing)} weights are on one side only "
            f"({', '.join(sorted(differing)[:3])}); name the right one: csplade:ADAPTER,base=PATH_OR_HUB_ID"
        )
    return adapted, {name: stored[name] for name in embeddings & set(stored)}


def _separate_embeddings(adapted: Any) -> None:
    """Give a base that shares embedding and output layer one of each, if the adapter changes one of them alone."""
    model = adapted.get_base_model()
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    plain = [getattr(table, "base_layer", table) for table in tables]
    if plain != tables and plain[0].weight is plain[1].weight:
        plain[1].weight = torch.nn.Parameter(plain[1].weight.detach().clone())
        model.config.tie_word_embeddings = False


def _require_saved_embeddings(
    path: Path, adapted: Any, saved: dict[str, torch.Tensor], rows: int | None, own_rows: int
) -> None:
    """Refuse an adapter whose embedding or output layer is not what the model now has.

    Raises:
        DataError: A grown vocabulary was saved of one of both alone, or two layers were saved that the base shares.
    """
    state = adapted.state_dict()
    for name, tensor in saved.items():
        if not torch.equal(state[name].cpu(), tensor.to(state[name].dtype)):
            raise DataError(
                f"{path}: {name} is not what the model has after loading: its base shares embedding and output layer, "
                "the adapter has two; set tie_word_embeddings to false in the base's config.json"
            )
    model = adapted.get_base_model()
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    shared = tables[0].weight is tables[1].weight
    trained = {id(table) for table in tables if hasattr(table, "modules_to_save")}
    whole = len(saved) + len(trained)
    if rows not in (None, own_rows) and whole < (1 if shared else 2):
        raise DataError(
            f"{path}: an adapter of {rows} tokens over a base of {own_rows}: the new rows of its embedding or of its "
            "output layer are not saved; save it again with save_embedding_layers=True"
        )


def with_adapter(
    backbone: Backbone, *, rank: int, alpha: float, dropout: float, targets: Sequence[str], trains_head: bool
) -> Backbone:
    """Put a new LoRA adapter into a backbone: it alone is trained, and the head if that is wanted.

    Raises:
        PrerequisiteError: peft is not installed.
        UsageError: The model has no module of these names.
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise PrerequisiteError("lora_rank: peft is not installed; pip install peft") from error
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # need not be whole
        lora_dropout=dropout,
        target_modules=list(targets),
        task_type=None if backbone.is_masked else TaskType.CAUSAL_LM,
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers for attributes that were renamed
            warnings.simplefilter("ignore", FutureWarning)
            adapted: Any = get_peft_model(backbone.model, settings)
    except ValueError as error:
        raise UsageError(f"lora_targets: {one_line(error)}; name modules of the model") from error
    return _in_training(adapted, backbone, trains_head)


def _in_training(adapted: Any, backbone: Backbone, trains_head: bool) -> Backbone:
    result = Backbone(adapted, backbone.attention)
    if trains_head:
        result.model.get_output_embeddings().requires_grad_(True)
    return result
