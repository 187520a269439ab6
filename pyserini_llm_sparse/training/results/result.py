"""The saved result of a phase: a directory that ``--encoder``, sentence-transformers or ``retrieve`` takes."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.files.atomic import atomic_folder
from pyserini_llm_sparse.modelling.backbone.devices import DTYPES
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint, require_replaceable, save_checkpoint, save_model
from pyserini_llm_sparse.modelling.folder import ModelFolder
from pyserini_llm_sparse.modelling.head_shift import save_head_shift
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tensors import stored_dtype
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from pyserini_llm_sparse.training.config.fields import ModelConfig, RetrieveConfig
from pyserini_llm_sparse.training.results.model_card import CARD_FILE, model_card
from pyserini_llm_sparse.training.results.provenance import TrainingRecord, write_record
from pyserini_llm_sparse.training.retriever.adaptation_model import AdaptationModel
from pyserini_llm_sparse.training.retriever.building import starting_checkpoint
from pyserini_llm_sparse.training.retriever.model import RetrievalModel, TrainableModel

_logger = logging.getLogger(__name__)


def require_expressible(config: ModelConfig) -> None:
    """Refuse, before anything is trained, a run whose result could not be saved so that it gives the same vectors.

    Raises:
        UsageError: The output directory holds something else, or what is asked for has no form on disk.
        LlmSparseError: With ``save: adapter``, the base model is not there; see `checkpoint.load_checkpoint`.
    """
    require_replaceable(config.output)
    if config.save == "adapter" and config.lora == "new" and starting_checkpoint(config).base is not None:
        raise UsageError(
            f"save: adapter: {config.model} is an adapter itself: the result would be one over a model that is on no "
            "disk; set save: merged, or lora: continue"
        )
    if not isinstance(config, RetrieveConfig) or config.representation == "sparse":
        return
    refused = (
        ("attention: echo", "set attention: causal or bidirectional") if config.attention == "echo"
        else ("save: adapter", "set save: merged") if config.save == "adapter"
        else ("pooled_span: text", "set pooled_span: all") if _pools_apart(config)
        else None
    )  # fmt: skip
    if refused is not None:
        what, remedy = refused
        raise UsageError(
            f"{what}: a dense model is saved in the layout of sentence-transformers, which cannot express it; {remedy}"
        )


def save_result(model: RetrievalModel, tokenizer: Any, record: TrainingRecord) -> Path:
    """Save a trained retriever as ``record.config.output``, whole or not at all.

    A sparse model becomes a checkpoint with its encoding spec, a dense one a sentence-transformers directory. To be
    called in one process with whole weights; with ``save: merged`` the adapter is merged into `model`.

    Args:
        model: The trained model, not wrapped.
        tokenizer: As `Tokenization` takes it.
        record: What is known of the run; its config says what is saved where.

    Returns:
        The directory.

    Raises:
        UsageError: As `require_expressible`.
        ResourceError: The adapter's base model is not there, or the disk is full.
    """
    config = record.config
    require_expressible(config)
    if not isinstance(config, RetrieveConfig):
        raise UsageError(f"{config.output}: the run is no retrieve phase; save it with save_adaptation")
    if config.representation == "dense":
        _save_dense(_in_dtype(merged(model.backbone.model), record.dtype), tokenizer, model.spec, record, config)
        return config.output
    base = _base(config)
    save_checkpoint(
        config.output,
        model.backbone.model if base is not None else _in_dtype(merged(model.backbone.model), record.dtype),
        tokenizer,
        model.spec,
        model.learned_query_weights(),
        model.head_shift,
        base=base,
        complete=lambda folder, spec: _complete(folder, record, spec),
    )
    return config.output


def save_adaptation(model: AdaptationModel, tokenizer: Any, record: TrainingRecord) -> Path:
    """Save an adapted language model as ``record.config.output``, whole or not at all; ``retrieve`` starts from it.

    Args:
        model: The adapted model, not wrapped.
        tokenizer: As `Tokenization` takes it.
        record: What is known of the run.

    Returns:
        The directory.

    Raises:
        UsageError: As `require_expressible`.
    """
    require_expressible(record.config)
    base = _base(record.config)
    with atomic_folder(record.config.output) as folder:
        language_model = model.backbone.model
        save_model(
            folder, language_model if base is not None else _in_dtype(merged(language_model), record.dtype), base
        )
        TextTokenizer.from_any(tokenizer).save(folder)
        if model.head_shift is not None:
            save_head_shift(folder, model.head_shift)
        _complete(folder, record, None)
    return record.config.output


def merged(model: Any) -> Any:
    """Return a transformers model with its adapter merged into the weights, in place."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def saved_dtype(config: ModelConfig, checkpoint: Checkpoint) -> str:
    """Return the type of the result's weights: what the run file says, or the base's; no larger than they are trained.

    Args:
        config: The run file.
        checkpoint: What training starts from.
    """
    base = stored_dtype(checkpoint.base or checkpoint.folder) or config.dtype
    is_larger = DTYPES[base].itemsize > DTYPES[config.dtype].itemsize
    return config.save_dtype or (config.dtype if is_larger else base)


def as_saved(model: TrainableModel, config: ModelConfig, dtype: str) -> None:
    """Give a model, in place, the weights that its result will have: merged and rounded, still computing as before.

    To be measured so. An adapter that is saved by itself stays as it is, and so does a model that would overflow.
    """
    if config.save == "adapter":
        return
    language_model = merged(model.backbone.model)
    model.backbone, model.model = replace(model.backbone, model=language_model), language_model
    if _fits(language_model, dtype):
        with torch.no_grad():
            for parameter in language_model.parameters():
                parameter.copy_(parameter.to(DTYPES[dtype]))


def _in_dtype(model: Any, dtype: str | None) -> Any:
    """Return a transformers model with weights of a type, in place; as it is for None, or where it would overflow."""
    if dtype is None:
        return model
    if not _fits(model, dtype):
        _logger.warning("save_dtype: %s: weights are beyond its largest number; they are saved as trained", dtype)
        return model
    return model.to(DTYPES[dtype])


def _fits(model: Any, dtype: str) -> bool:
    most = torch.finfo(DTYPES[dtype]).max
    return all(
        not parameter.numel() or float(parameter.detach().abs().max()) <= most for parameter in model.parameters()
    )


def start_name(config: ModelConfig) -> str:
    """Return the model that training started from: an absolute path, or a hub id."""
    model = parse_encoder_name(config.model).model
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _base(config: ModelConfig) -> str | None:
    """Return the name by which an adapter finds its base; None if whole weights are saved."""
    if config.save != "adapter":
        return None
    if config.lora == "new":
        return start_name(config)
    reference = parse_encoder_name(config.model)
    return ModelFolder.find(reference).base_name(reference)


def _pools_apart(config: RetrieveConfig) -> bool:
    """Tell whether a dense model leaves out of the pooling what sentence-transformers would pool."""
    framed = config.add_bos or config.add_eos or config.query_prefix or config.document_prefix
    return config.pooled_span == "text" and bool(config.add_eos if config.dense_pooling == "last-token" else framed)


def _complete(folder: Path, record: TrainingRecord, spec: EncodingSpec | None) -> None:
    """Add the model card and the record of the training; a card that peft wrote is replaced."""
    write_record(folder, record)
    (folder / CARD_FILE).write_text(model_card(record, spec), encoding="utf-8")


def _save_dense(model: Any, tokenizer: Any, spec: EncodingSpec, record: TrainingRecord, config: RetrieveConfig) -> None:
    """Write Transformer, Pooling and Normalize modules, in the layout that sentence-transformers reads since 2.x."""
    from pyserini_llm_sparse.modelling.backbone.language_model import set_attention

    set_attention(model, spec.attention)
    body = model.base_model
    # Normalize scales what it is told to from sentence-transformers 6 on; before that, it fails before a pooling.
    states_first = config.dense_pooling == "normalised-mean"
    pooling, normalize = ("2_Pooling", "1_Normalize") if states_first else ("1_Pooling", "2_Normalize")
    modules = (("", "Transformer"), *sorted(((pooling, "Pooling"), (normalize, "Normalize"))))
    length = max(spec.query_max_length, spec.document_max_length)
    mode = "lasttoken" if config.dense_pooling == "last-token" else "mean"
    with atomic_folder(config.output) as folder:
        save_model(folder, body)
        _framing(TextTokenizer.from_any(tokenizer), spec).save(folder)
        for path, _ in modules[1:]:
            (folder / path).mkdir()
        contents: dict[str, Any] = {
            "modules.json": [
                {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for number, (path, kind) in enumerate(modules)
            ],
            "sentence_bert_config.json": {"max_seq_length": length, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "model_type": "SentenceTransformer",
                "prompts": {"query": spec.query_prefix, "document": spec.document_prefix},
                "default_prompt_name": None,
                "similarity_fn_name": "dot" if states_first else "cosine",
            },
            f"{pooling}/config.json": {
                "word_embedding_dimension": int(body.config.hidden_size),
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": mode == "mean",
                "pooling_mode_lasttoken": mode == "lasttoken",
                "include_prompt": True,
            },
            f"{normalize}/config.json": {"module_input_name": "token_embeddings"} if states_first else {},
        }
        for name, content in contents.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        _complete(folder, record, spec)


def _framing(tokenizer: TextTokenizer, spec: EncodingSpec) -> TextTokenizer:
    """Return a tokenizer that frames texts by itself as the spec says, and has a token to pad with."""
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    before = [tokenizer.bos_id] if spec.add_bos and tokenizer.bos_id is not None else []
    after = [tokenizer.eos_id] if spec.add_eos and tokenizer.eos_id is not None else []
    names = {number: backend.id_to_token(number) for number in (*before, *after)}
    single = [*(names[number] for number in before), "$A", *(names[number] for number in after)]
    special = [(token, number) for number, token in names.items()]
    backend.post_processor = TemplateProcessing(single=single, pair=[*single, "$B:1"], special_tokens=special)
    padding = next((one for one in (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) if one is not None), 0)
    return TextTokenizer(backend, tokenizer.bos_id, tokenizer.eos_id, padding)
