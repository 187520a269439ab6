"""The contract of a checkpoint: its encoding spec, from its directory, what is published, or fields given by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.modelling.folder import ModelFolder, is_masked
from pyserini_llm_sparse.modelling.names import LOADING_OPTIONS, SPEC_FILE, ModelReference
from pyserini_llm_sparse.modelling.published import SPLADE
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer

_logger = logging.getLogger(__name__)


def checkpoint_spec(
    folder: ModelFolder, reference: ModelReference, tokenizer: TextTokenizer, config: dict[str, Any]
) -> EncodingSpec:
    """Return the encoding spec of a checkpoint, from its directory, what is published or the reference's fields.

    For a masked language model that says nothing itself it is `published.SPLADE`, with the tokens that the tokenizer
    puts around a text, and with the lengths and top-k that sentence-transformers reads where it is in that layout. A
    spec that is made from named fields alone has BOS if the tokenizer has it, and lists all special tokens as excluded,
    so that it can be read there that they never become terms.

    Args:
        folder: The model's directory.
        reference: The model, and the fields that replace those of the spec.
        tokenizer: The model's tokenizer.
        config: The model's ``config.json``, of an adapter that of its base.

    Raises:
        DataError: Nothing says how texts become vectors, or a value is impossible.
        UsageError: A field is unknown, or not for this kind of model.
    """
    overrides = {name: _field_value(name, value) for name, value in reference.overrides.items()}
    if folder.has_spec:
        spec = EncodingSpec.load(folder.path)
    elif folder.known is not None:
        scale = float(config.get("hidden_size", 1)) ** folder.known.hidden_size_exponent
        spec = EncodingSpec(logit_scale=scale, **folder.known.spec)
    elif is_masked(config):
        spec = EncodingSpec(add_bos=tokenizer.bos_id is not None, add_eos=tokenizer.eos_id is not None, **SPLADE)
        spec = spec.replace(**folder.sentence_transformers_fields)
    elif "attention" in overrides:
        spec = EncodingSpec(
            attention="causal", add_bos=tokenizer.bos_id is not None, excluded_token_ids=tokenizer.special_ids()
        )
        if "logit_scale" not in overrides:
            _logger.warning(
                "%s: without %s: logit_scale 1 is assumed; a model that is trained as Lion is needs hidden_size ** "
                "-0.25; name what is meant: logit_scale=VALUE",
                folder.path,
                SPEC_FILE,
            )
    else:
        raise DataError(
            f"{folder.path}: a causal language model (type {config.get('model_type')!r}) without {SPEC_FILE}: its "
            "weights alone do not say how texts become vectors; name at least the attention it was trained with: "
            f"csplade:{reference.model},attention=causal (or echo, bidirectional; further fields such as add_bos, "
            "logit_scale)"
        )
    spec = spec.replace(**overrides) if overrides else spec
    if is_masked(config) and spec.attention != "bidirectional":
        raise UsageError(
            f"{folder.path}: attention={spec.attention}: a masked language model attends in both directions; leave "
            "attention out, or set it to bidirectional"
        )
    return spec


def warn_of_long_texts(folder: Path, spec: EncodingSpec, positions: object) -> None:
    """Say once if texts can be longer than the positions that the model was trained on."""
    longest = max(spec.query_max_length, spec.document_max_length) * (2 if spec.attention == "echo" else 1)
    if isinstance(positions, int) and longest > positions:
        _logger.warning("%s: texts of up to %d tokens, but the model knows %d positions", folder, longest, positions)


def _field_value(name: str, value: Any) -> Any:
    """Read a spec field that was given by name, perhaps as text.

    Raises:
        UsageError: There is no such field.
    """
    if name not in EncodingSpec.model_fields or name in ("version", "model_fingerprint"):
        fields = sorted(set(EncodingSpec.model_fields) - {"version", "model_fingerprint"})
        raise UsageError(
            f"encoder: {name}={value}: no such field; known are {', '.join(fields)} of the encoding spec, and "
            f"{', '.join(LOADING_OPTIONS)}"
        )
    if name == "excluded_token_ids" and isinstance(value, str):
        return [part for part in value.replace(",", " ").split() if part.lower() != "none"]
    if name.endswith("_top_k") and str(value).lower() in ("none", ""):
        return None
    return value
