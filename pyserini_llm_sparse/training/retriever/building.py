"""The model that a run file describes, as it is before training: found, loaded, and with its adapter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.modelling.backbone.adapters import continued_adapter, with_adapter
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone, freeze_head
from pyserini_llm_sparse.modelling.backbone.loading import load_trainable_backbone
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint, load_checkpoint
from pyserini_llm_sparse.modelling.folder import ModelFolder
from pyserini_llm_sparse.modelling.head_shift import has_head_shift, load_head_shift
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.training.config.fields import AdaptConfig, ModelConfig, RetrieveConfig
from pyserini_llm_sparse.training.retriever.adaptation_model import AdaptationModel
from pyserini_llm_sparse.training.retriever.model import RetrievalModel
from pyserini_llm_sparse.training.retriever.term_statistics import TermStatistics


def starting_checkpoint(config: ModelConfig) -> Checkpoint:
    """Find the model that a run starts from, with its tokenizer; weights are not loaded yet.

    Raises:
        UsageError: It is a masked language model that is to be adapted, or its name sets fields of the run file.
        LlmSparseError: As `checkpoint.load_checkpoint` says.
    """
    named = parse_encoder_name(config.model)
    if named.overrides:
        raise UsageError(
            f"model: {config.model}: fields of the encoding spec are fields of the run file; give them there"
        )
    trusted = config.trust_remote_code
    folder = ModelFolder.find(replace(named, trust_remote_code=trusted))
    if isinstance(config, AdaptConfig):
        # Before anything else is found fault with, such as its attention.
        folder.require_causal(config.model)
    has_spec = folder.known is not None or folder.has_spec or folder.is_masked
    # A model that says how it attends goes on so, unless the run file says otherwise.
    given: dict[str, Any] = {}
    if not has_spec or "attention" in config.model_fields_set:
        given["attention"] = config.attention
    if not has_spec:
        given["logit_scale"] = getattr(config, "logit_scale", 1.0)  # which the run file says
    if not has_spec and has_head_shift(folder.path):
        given["calibrated_head"] = True
    checkpoint = load_checkpoint(replace(named, overrides=given, trust_remote_code=trusted), folder)
    if config.head_shift is None:
        return checkpoint
    shift, spec = load_head_shift(config.head_shift), checkpoint.spec.replace(calibrated_head=True)
    return replace(checkpoint, spec=spec, head_shift=shift)


def build_model(
    config: RetrieveConfig,
    checkpoint: Checkpoint | None = None,
    query_weights: Tensor | None = None,
    statistics: TermStatistics | None = None,
) -> RetrievalModel:
    """Make the retriever that a run file describes, as it is before training, on the CPU.

    Args:
        config: The run file.
        checkpoint: What it starts from, if that has been looked up already.
        query_weights: ``[vocabulary]``, where the table of inference-free queries starts; by default where the
            checkpoint's own ends, and without one at the weights of `statistics`.
        statistics: Of the training documents; needed for ``lexical_weight``.

    Raises:
        UsageError: Queries are inference-free, but there is no table.
        LlmSparseError: The model cannot be loaded or does not fit; see `loading.load_trainable_backbone`.
    """
    checkpoint = checkpoint or starting_checkpoint(config)
    inference_free = config.query_encoder == "inference-free"
    if inference_free and query_weights is None and checkpoint.query_term_weights is not None:
        query_weights = torch.from_numpy(checkpoint.query_term_weights.copy())
    if inference_free and query_weights is None and statistics is not None:
        query_weights = statistics.weights
    if inference_free and (query_weights is None or query_weights.shape != (checkpoint.vocabulary_size,)):
        raise UsageError(
            f"{config.model}: query_encoder: inference-free: there is no table of {checkpoint.vocabulary_size} term "
            "weights to start from; give one, or start from a model that has one"
        )
    spec = config.encoding_spec()
    terms = replace(checkpoint, spec=spec)
    folding = terms.folding
    if query_weights is not None and folding is not None:
        query_weights = torch.from_numpy(folding.of_table(query_weights.numpy()))
    model = RetrievalModel(
        _backbone(config, checkpoint, uses_head=config.representation == "sparse"),
        spec,
        torch.from_numpy(terms.allowed),
        None if folding is None else torch.from_numpy(folding.term_of),
        representation=config.representation,
        dense_pooling=config.dense_pooling,
        query_weights=query_weights if inference_free else None,
        learns_query_weights=config.query_term_weights == "learned",
        head_shift=_head_shift(checkpoint) if spec.calibrated_head else None,
        statistics=statistics if config.lexical_weight else None,
    )
    model.rebuild = partial(build_model, config, checkpoint, query_weights, statistics)
    return model


def build_adaptation_model(config: AdaptConfig, checkpoint: Checkpoint | None = None) -> AdaptationModel:
    """Make the language model that a run file of `adapt` describes, as it is before training, on the CPU.

    Raises:
        LlmSparseError: The model cannot be loaded or does not fit; see `loading.load_trainable_backbone`.
    """
    checkpoint = checkpoint or starting_checkpoint(config)
    sparse_weight = config.sparse_weight if config.objective == "sparse-next-token" else 0.0
    backbone = _backbone(config, checkpoint, uses_head=True)
    model = AdaptationModel(backbone, sparse_weight, None if checkpoint.head_shift is None else _head_shift(checkpoint))
    model.rebuild = partial(build_adaptation_model, config, checkpoint)
    return model


def _head_shift(checkpoint: Checkpoint) -> Tensor:
    """Return where the vector of a calibrated head starts.

    Raises:
        UsageError: The model has none.
    """
    if checkpoint.head_shift is None:
        raise UsageError(
            f"calibrated_head: true: {checkpoint.folder} has no vector for it; make one with `train calibrate`, and "
            "give its directory as model, or as head_shift"
        )
    return torch.from_numpy(checkpoint.head_shift.copy())


def _backbone(config: ModelConfig, checkpoint: Checkpoint, uses_head: bool) -> Backbone:
    """Load the language model, and put the adapter in."""
    continues = config.lora == "continue"
    if continues and checkpoint.base is None:
        raise UsageError(f"{config.model}: lora: continue: it is no adapter; set lora_rank to begin one")
    backbone = load_trainable_backbone(
        checkpoint.base if continues and checkpoint.base else checkpoint.folder,
        attention=config.attention,
        dtype=config.dtype,
        base=None if continues else checkpoint.base,
        trust_remote_code=config.trust_remote_code,
        attention_implementation=config.attention_implementation,
    )
    # A head that nothing uses gets no gradient, which DDP would wait for.
    trains_head = config.trains_head and (uses_head or backbone.ties_embeddings)
    if not trains_head:
        freeze_head(backbone)
    if continues:
        return continued_adapter(backbone, checkpoint.folder, dropout=config.lora_dropout, trains_head=trains_head)
    if config.lora_rank is None:
        return backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # every process starts from the same adapter
        return with_adapter(
            backbone,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets=config.lora_targets,
            trains_head=trains_head,
        )
