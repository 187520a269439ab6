"""A checkpoint: the spec, tokenizer and query term weights of a model's directory, found and saved.

Weights are not read here: an engine reads them when the first text is sent through the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import SpecMismatchError, UsageError
from pyserini_llm_sparse.files.atomic import atomic_folder
from pyserini_llm_sparse.files.outputs import require_folder
from pyserini_llm_sparse.modelling.contract import checkpoint_spec, warn_of_long_texts
from pyserini_llm_sparse.modelling.fingerprint import fingerprint
from pyserini_llm_sparse.modelling.folder import ModelFolder
from pyserini_llm_sparse.modelling.folding import Folding, fold_surfaces
from pyserini_llm_sparse.modelling.head_shift import has_head_shift, load_head_shift, save_head_shift
from pyserini_llm_sparse.modelling.hub import resolve_folder
from pyserini_llm_sparse.modelling.names import SPEC_FILE, ModelReference
from pyserini_llm_sparse.modelling.query_table import load_query_term_weights, save_query_term_weights
from pyserini_llm_sparse.modelling.spec import EncodingSpec, same_model, short_fingerprint
from pyserini_llm_sparse.modelling.tokenizer import TOKENIZER_FILES, TextTokenizer

_MARKS = (SPEC_FILE, "training/config.yaml")  # by which a directory is known to be one of ours


@dataclass(frozen=True)
class Checkpoint:
    """A model as it lies on disk, but for its weights.

    Attributes:
        spec: The encoding spec, with the model's fingerprint.
        tokenizer: The tokenizer with its special tokens.
        tokens: The token text of each id that the model has a logit for; None for an id without a token.
        folder: The directory of the model, the adapter or the export.
        base: Directory of the adapter's base model, None without adapter.
        query_term_weights: float32 ``[vocabulary]``, the terms' weights in inference-free queries; None if the model
            encodes the queries.
        head_shift: float32 ``[hidden]``, the vector of a calibrated head; None for a model that has none.
        trust_remote_code: Whether code that comes with the model may run.
        made_by: The name that its vectors carry; see `names.ModelReference.made_by`.
    """

    spec: EncodingSpec
    tokenizer: TextTokenizer
    tokens: list[str | None]
    folder: Path
    base: Path | None = None
    query_term_weights: NDArray[np.float32] | None = None
    head_shift: NDArray[np.float32] | None = None
    trust_remote_code: bool = False
    made_by: str = ""

    @property
    def vocabulary_size(self) -> int:
        """Number of ids that the model has logits for."""
        return len(self.tokens)

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        """``[vocabulary]``, true for each id whose logit counts: it has a token and is not excluded."""
        allowed = np.array([token is not None for token in self.tokens])
        allowed[[number for number in self.spec.excluded_token_ids if number < self.vocabulary_size]] = False
        return allowed

    @cached_property
    def folding(self) -> Folding | None:
        """Which term each token belongs to; None where each is one of its own."""
        if self.spec.term_folding == "none":
            return None
        return fold_surfaces(self.tokenizer, self.tokens, self.allowed)

    @property
    def term_names(self) -> list[str | None]:
        """What the term of each id is called before it is made safe; None for ids that never become one."""
        if self.folding is not None:
            return self.folding.names
        return [token if allowed else None for token, allowed in zip(self.tokens, self.allowed.tolist(), strict=True)]

    def terms_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids that stand for the terms of tokens."""
        return ids if self.folding is None else self.folding.term_of[ids]

    @cached_property
    def term_weights(self) -> NDArray[np.float32] | None:
        """`query_term_weights` by terms: 0 for ids that never become one; None if the model encodes the queries."""
        if self.query_term_weights is None:
            return None
        weights = np.where(self.allowed, self.query_term_weights, np.float32(0))
        return weights if self.folding is None else self.folding.of_table(weights)


def load_checkpoint(reference: ModelReference, folder: ModelFolder | None = None) -> Checkpoint:
    """Find a language model, its spec and its tokenizer.

    The spec is, in this order, the directory's ``encoding_spec.json``, what is known of a published model, for a masked
    language model `published.SPLADE`, or the fields that the reference names; these also replace fields of the others.

    Args:
        reference: The model, from `names.parse_encoder_name`.
        folder: Its directory, if that has been found already.

    Raises:
        ResourceError: The model, its base or its tokenizer is not there.
        UsageError: A field of the spec is unknown, or not for this kind of model; or it is an ONNX export.
        DataError: It is another kind of model, has no spec, or its files are not in order.
        SpecMismatchError: The files are not those that the spec was saved with.
    """
    folder = folder or ModelFolder.find(reference)
    folder.require_language_model()
    base = folder.base(reference)
    body = base or folder
    tokenizer = find_tokenizer(folder, reference, base)
    if body.is_masked:
        tokenizer = tokenizer.framed_by_template()
    config = body.config or {}
    spec = checkpoint_spec(folder, reference, tokenizer, config)
    warn_of_long_texts(folder.path, spec, config.get("max_position_embeddings"))
    size = folder.adapter_vocabulary or body.vocabulary_size
    found = fingerprint(folder.path, tokenizer, base.path if base else None)
    if spec.model_fingerprint and not same_model(spec.model_fingerprint, found):
        raise SpecMismatchError(
            f"{folder.path}: weights, configuration or tokenizer are not those that the encoding spec was saved with: "
            f"model_fingerprint is {short_fingerprint(spec.model_fingerprint)} in {SPEC_FILE}, "
            f"{short_fingerprint(found)} of the files; restore the files, "
            f"or remove model_fingerprint from {SPEC_FILE} if the change was meant"
        )
    return Checkpoint(
        spec=spec.replace(model_fingerprint=found),
        tokenizer=tokenizer,
        tokens=tokenizer.tokens(size),
        folder=folder.path,
        base=base.path if base else None,
        query_term_weights=query_term_weights(folder.path, spec, size),
        head_shift=load_head_shift(folder.path) if spec.calibrated_head or has_head_shift(folder.path) else None,
        trust_remote_code=reference.trust_remote_code,
        made_by=reference.made_by,
    )


def find_tokenizer(folder: ModelFolder, reference: ModelReference, base: ModelFolder | None = None) -> TextTokenizer:
    """Return the tokenizer: the one that is named, the model's own or its base's, or a published model's.

    Raises:
        ResourceError: There is none.
        DataError: It cannot be read.
    """
    if reference.tokenizer:
        return TextTokenizer.from_folder(resolve_folder(reference.tokenizer), reference.trust_remote_code)
    for place in (folder.path, folder.root, *([base.path] if base else [])):
        if any((place / name).is_file() for name in TOKENIZER_FILES):
            return TextTokenizer.from_folder(place, reference.trust_remote_code)
    other = folder.known.tokenizer if folder.known else None
    return TextTokenizer.from_folder(resolve_folder(other) if other else folder.path, reference.trust_remote_code)


def query_term_weights(folder: Path, spec: EncodingSpec, vocabulary_size: int) -> NDArray[np.float32] | None:
    """Return the table of inference-free queries, None where the model encodes queries.

    Raises:
        ResourceError: The spec asks for a table and there is none.
        DataError: It cannot be read, or does not fit the vocabulary.
    """
    return load_query_term_weights(folder, vocabulary_size) if spec.query_encoder == "inference-free" else None


def save_checkpoint(
    folder: str | Path,
    model: Any,
    tokenizer: Any,
    spec: EncodingSpec,
    query_term_weights: Any = None,
    head_shift: Any = None,
    *,
    base: str | Path | None = None,
    complete: Callable[[Path, EncodingSpec], None] | None = None,
) -> EncodingSpec:
    """Write a model directory that `load_checkpoint` and transformers read, whole or not at all.

    Args:
        folder: The directory; one that holds a checkpoint is replaced, one that holds anything else is refused.
        model: A `Backbone` or a transformers causal language model, whose attention is set to the spec's; or, with
            `base`, a peft model of which the adapter alone is written.
        tokenizer: As `Tokenization` takes it.
        spec: The encoding spec; its fingerprint is filled in.
        query_term_weights: ``[vocabulary]``, for inference-free queries.
        head_shift: ``[hidden]``, for a calibrated head.
        base: Path or hub id of the adapter's base model, by which it will be loaded.
        complete: Called with the unfinished directory and the spec, to put further files into it.

    Returns:
        The spec as it was saved.

    Raises:
        UsageError: The directory holds something else, or weights and spec contradict each other.
        ResourceError: The adapter's base model is not there, or the directory cannot be written.
    """
    folder = Path(folder)
    require_replaceable(folder)
    if (query_term_weights is not None) != (spec.query_encoder == "inference-free"):
        raise UsageError(
            f"{folder}: query_encoder is {spec.query_encoder!r}, query term weights are "
            f"{'missing' if query_term_weights is None else 'given'}; they go together with 'inference-free'"
        )
    if (head_shift is not None) != spec.calibrated_head:
        raise UsageError(
            f"{folder}: calibrated_head is {spec.calibrated_head}, its vector is "
            f"{'missing' if head_shift is None else 'given'}; they go together"
        )
    from pyserini_llm_sparse.modelling.backbone.language_model import set_attention

    model = getattr(model, "model", model) if not hasattr(model, "save_pretrained") else model
    if base is None:
        set_attention(model, spec.attention)
    with atomic_folder(folder) as temporary:
        save_model(temporary, model, base)
        text_tokenizer = TextTokenizer.from_any(tokenizer)
        text_tokenizer.save(temporary)
        if query_term_weights is not None:
            save_query_term_weights(temporary, query_term_weights, int(model.config.vocab_size))
        if head_shift is not None:
            save_head_shift(temporary, head_shift)
        base_folder = resolve_folder(str(base)) if base is not None else None
        spec = spec.replace(model_fingerprint=fingerprint(temporary, text_tokenizer, base_folder))
        spec.save(temporary)
        if complete is not None:
            complete(temporary, spec)
    return spec


def save_model(folder: Path, model: Any, base: str | Path | None = None) -> None:
    """Write a transformers model's weights and configuration, or with `base` a peft model's adapter."""
    from pyserini_llm_sparse.modelling.backbone.language_model import quiet

    with quiet():
        if base is None:
            model.save_pretrained(folder)
            return
        for config in model.peft_config.values():
            config.base_model_name_or_path = str(base)
        # Without the argument peft asks the hub whether the base model's vocabulary has grown.
        model.save_pretrained(str(folder), save_embedding_layers=False)


def require_replaceable(folder: str | Path) -> None:
    """Refuse a directory that holds anything but an earlier checkpoint or training result.

    Raises:
        UsageError: It does, or it is a file.
    """
    require_folder(Path(folder), overwrite=True, what="checkpoint", marks=_MARKS)
