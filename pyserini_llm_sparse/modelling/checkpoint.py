"""Loading and saving a checkpoint: spec, tokenizer, backbone and query term weights, with a fingerprint of them all.

What a process does not need is not loaded: weights and torch only when a text is first sent through the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError, ResourceError, SpecMismatchError, UsageError
from pyserini_llm_sparse.files.atomic import atomic_folder
from pyserini_llm_sparse.files.settings import read_json
from pyserini_llm_sparse.modelling.contract import checkpoint_spec, warn_of_long_texts
from pyserini_llm_sparse.modelling.fingerprint import fingerprint
from pyserini_llm_sparse.modelling.folder import is_masked, require_language_model, resolve_folder
from pyserini_llm_sparse.modelling.names import SPEC_FILE, ModelReference
from pyserini_llm_sparse.modelling.published import published
from pyserini_llm_sparse.modelling.query_table import load_query_term_weights, save_query_term_weights
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tokenizer import TOKENIZER_FILES, TextTokenizer
from pyserini_llm_sparse.onnx.runtime.description import (
    ExportDescription,
    Precision,
    asked_precision,
    read_description,
    require_fields_in_graph,
)
from pyserini_llm_sparse.onnx.runtime.providers import device_number, export_device

if TYPE_CHECKING:
    from pyserini_llm_sparse.modelling.backbone.language_model import Backbone

_MARKS = (SPEC_FILE, "training/config.yaml")  # by which a directory is known to be one of ours


@dataclass
class Checkpoint:
    """A model as it lies on disk, its parts loaded when they are first used.

    Attributes:
        spec: The encoding spec, with the model's fingerprint.
        tokenizer: The tokenizer with its special tokens.
        tokens: The token text of each id that the model has a logit for; None for an id without a token.
        folder: The model's or adapter's directory.
        base: Directory of the adapter's base model, None without adapter.
        query_term_weights: float32 ``[vocabulary]``, the terms' weights in inference-free queries; None if the model
            encodes the queries.
        device: Where the model goes; None for the best there is.
        dtype: Its floating-point type; None for the device's default.
        trust_remote_code: Whether code that comes with the model may run.
        threads: CPU threads of the model; None for all cores.
        export: What an ONNX export says about itself; None for a model of torch.
        onnx_precision: Of the export that is made of the model to compute its vectors; None to compute them with torch.
    """

    spec: EncodingSpec
    tokenizer: TextTokenizer
    tokens: list[str | None]
    folder: Path
    base: Path | None = None
    query_term_weights: NDArray[np.float32] | None = None
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None
    export: ExportDescription | None = None
    onnx_precision: Precision | None = None
    _backbone: Backbone | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids that the model has logits for."""
        return len(self.tokens)

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        """``[vocabulary]``, true for each id that may become a term: it has a token and is not excluded."""
        allowed = np.array([token is not None for token in self.tokens])
        allowed[[number for number in self.spec.excluded_token_ids if number < self.vocabulary_size]] = False
        return allowed

    @property
    def precision(self) -> str:
        """The number format that the model computes in: torch's name of it, or an export's.

        Raises:
            LlmSparseError: torch has no such type or device.
        """
        if self.export is not None:
            return f"onnx {self.export.precision}"
        if self.onnx_precision is not None:
            return f"onnx {self.onnx_precision}"
        from pyserini_llm_sparse.modelling.backbone.devices import resolve_dtype

        return resolve_dtype(self.dtype, self.device)

    @property
    def export_device(self) -> str | None:
        """Where ONNX Runtime computes the vectors; None if torch does."""
        precision = self.onnx_precision if self.export is None else self.export.precision
        return None if precision is None else export_device(self.device, precision)

    @property
    def backbone(self) -> Backbone:
        """The torch model, loaded at the first use; see `load_backbone` for what can go wrong.

        Raises:
            UsageError: The checkpoint is an ONNX export.
        """
        if self.export is not None:
            raise UsageError(f"{self.folder}: an ONNX export, without torch's weights; use the model it was made from")
        with self._lock:
            if self._backbone is None:
                from pyserini_llm_sparse.modelling.backbone.language_model import load_backbone

                backbone = load_backbone(
                    self.folder,
                    attention=self.spec.attention,
                    dtype=self.dtype,
                    device=self.device,
                    base=self.base,
                    trust_remote_code=self.trust_remote_code,
                )
                if backbone.vocabulary_size != self.vocabulary_size:
                    raise DataError(
                        f"{self.folder}: the output layer has {backbone.vocabulary_size} rows, config.json says "
                        f"{self.vocabulary_size}; correct vocab_size"
                    )
                self._backbone = backbone
            return self._backbone


def load_checkpoint(
    reference: ModelReference, device: str | None = None, dtype: str | None = None, threads: int | None = None
) -> Checkpoint:
    """Find a checkpoint or an ONNX export, its spec and its tokenizer. Weights are not loaded yet.

    The spec is, in this order, the directory's ``encoding_spec.json``, what is known of a published model, for a masked
    language model `catalog.SPLADE`, or the fields that the reference names; these also replace fields of the others.

    Args:
        reference: The model, from `catalog.parse_encoder_name`.
        device: Where the backbone will go; None for the best there is.
        dtype: Its floating-point type; None for the device's default.
        threads: CPU threads of the model; None for all cores.

    Raises:
        ResourceError: The model, its base or its tokenizer is not there.
        UsageError: A field of the spec is unknown, or not for this kind of model; or device, dtype, precision or a
            field is not what an export is for.
        DataError: It is another kind of model, has no spec, or its files are not in order.
        SpecMismatchError: The files are not those that the spec was saved with.
    """
    known = published(reference.model)
    root = resolve_folder(reference.model, reference.revision, reference.trust_remote_code)
    folder = root / (reference.subfolder or (known.subfolder if known else None) or "")
    export = read_description(folder)
    if export is None:
        require_language_model(folder, known is not None)
    else:
        _require_fit_for_export(folder, export, device, dtype)
    precision = asked_precision(reference.model, reference.precision, export, device, dtype)
    base = _base_folder(folder, reference)
    config = _config(base or folder, export)
    vocabulary_size = _vocabulary_size(base or folder, config)
    tokenizer = _tokenizer([folder, root, *([base] if base else [])], reference, known.tokenizer if known else None)
    if is_masked(config):
        tokenizer = tokenizer.framed_by_template()
    spec = checkpoint_spec(folder, reference, tokenizer, config)
    warn_of_long_texts(folder, spec, config)
    if export is None:
        found = fingerprint(folder, tokenizer, base)
    else:
        export.require_unchanged(folder, tokenizer)
        require_fields_in_graph(folder, spec)
        # An export keeps the name of its model: their vectors belong into one index.
        found = spec.model_fingerprint
    if spec.model_fingerprint and spec.model_fingerprint != found:
        raise SpecMismatchError(
            f"{folder}: weights or tokenizer are not those that the encoding spec was saved with: model_fingerprint is "
            f"{spec.model_fingerprint} in {SPEC_FILE}, {found} of the files; restore the files, or remove "
            f"model_fingerprint from {SPEC_FILE} if the change was meant"
        )
    weights = None
    if spec.query_encoder == "inference-free":
        weights = load_query_term_weights(folder, vocabulary_size)
    return Checkpoint(
        spec=spec.replace(model_fingerprint=found),
        tokenizer=tokenizer,
        tokens=tokenizer.tokens(vocabulary_size),
        folder=folder,
        base=base,
        query_term_weights=weights,
        device=device,
        dtype=dtype,
        trust_remote_code=reference.trust_remote_code,
        threads=threads,
        export=export,
        onnx_precision=precision,
    )


def save_checkpoint(
    folder: str | Path,
    model: Any,
    tokenizer: Any,
    spec: EncodingSpec,
    query_term_weights: Any = None,
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
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, and is not overwritten; choose another directory")
    if folder.exists() and any(folder.iterdir()) and not any((folder / mark).is_file() for mark in _MARKS):
        raise UsageError(f"{folder}: holds files but no checkpoint, and is not overwritten; choose another directory")


def _base_folder(folder: Path, reference: ModelReference) -> Path | None:
    """Return the directory of the base model if the folder holds an adapter."""
    adapter = read_json(folder / "adapter_config.json")
    if adapter is None:
        if reference.base is not None:
            raise UsageError(f"{folder}: base={reference.base} is given, but this is no adapter; leave base out")
        return None
    named = reference.base or adapter.get("base_model_name_or_path")
    if not named:
        raise DataError(f"{folder}: the adapter does not name its base model; add base=PATH_OR_HUB_ID")
    beside = folder / str(named)
    try:
        base = beside if beside.is_dir() else resolve_folder(str(named), None, reference.trust_remote_code)
    except ResourceError as error:
        raise ResourceError(f"{error} (the base model of the adapter {folder}); another one can be named with "
                            "base=PATH_OR_HUB_ID") from error  # fmt: skip
    require_language_model(base)
    if (base / "adapter_config.json").is_file():
        raise DataError(f"{base}: the base model of {folder} is an adapter itself; merge that one first")
    return base


def _tokenizer(places: list[Path], reference: ModelReference, known: str | None) -> TextTokenizer:
    """Return the tokenizer: the one that is named, the model's own or its base's, or a published model's."""
    if reference.tokenizer:
        return TextTokenizer.from_folder(resolve_folder(reference.tokenizer), reference.trust_remote_code)
    for place in places:
        if any((place / name).is_file() for name in TOKENIZER_FILES):
            return TextTokenizer.from_folder(place, reference.trust_remote_code)
    return TextTokenizer.from_folder(resolve_folder(known) if known else places[0], reference.trust_remote_code)


def _require_fit_for_export(folder: Path, export: ExportDescription, device: str | None, dtype: str | None) -> None:
    """Refuse a device or a type that an export was not made for."""
    device_number(device or "cpu")
    if dtype is not None and dtype.replace("float32", "fp32") not in ("auto", export.precision):
        raise UsageError(f"{folder}: dtype {dtype}: this ONNX export computes in {export.precision}; leave dtype out")


def _config(folder: Path, export: ExportDescription | None) -> dict[str, Any]:
    """Return a model's configuration, of an export what takes its place."""
    if export is not None:
        return {"vocab_size": export.vocabulary_size, "max_position_embeddings": export.positions}
    return read_json(folder / "config.json") or {}


def _vocabulary_size(folder: Path, config: dict[str, Any]) -> int:
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    if not isinstance(size, int) or size < 1:
        raise DataError(f"{folder}: config.json has no usable vocab_size ({size!r}); restore the file")
    return size
