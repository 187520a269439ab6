"""A model's directory: what it holds, read once, and why one of another kind is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.files.settings import read_json
from pyserini_llm_sparse.modelling.hub import resolve_folder
from pyserini_llm_sparse.modelling.names import SPEC_FILE, ModelReference
from pyserini_llm_sparse.modelling.published import PublishedModel, published
from pyserini_llm_sparse.modelling.tensors import saved_vocabulary

EXPORT_FILE = "onnx_export.json"  # by which the directory of an ONNX export is known
MOST_TOKENS = 2**20  # a longer text is beyond any model
_SPARSE_MODULES = ("SpladePooling", "Router", "SparseStaticEmbedding", "SparseAutoEncoder", "CSRSparsity")
OTHER_BASE = "another one can be named with base=PATH_OR_HUB_ID"


@dataclass(frozen=True)
class ModelFolder:
    """The directory of a model, an adapter or an ONNX export. Its files are read when they are first asked for.

    Attributes:
        path: The directory.
        root: The directory or repository that it lies in, itself unless a subfolder is named.
        known: What is known of it as a published model, if it is one.
    """

    path: Path
    root: Path
    known: PublishedModel | None = None

    @classmethod
    def find(cls, reference: ModelReference) -> ModelFolder:
        """Find the directory of a model; from the hub it is downloaded if that is allowed.

        Raises:
            ResourceError: There is no such directory and no such model.
        """
        known = published(reference.model)
        root = resolve_folder(reference.model, reference.revision, reference.trust_remote_code)
        return cls(root / (reference.subfolder or (known.subfolder if known else None) or ""), root, known)

    @classmethod
    def at(cls, path: Path) -> ModelFolder:
        """Return a directory of which nothing else is known."""
        return cls(path, path)

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The content of ``config.json``, None if there is none.

        Raises:
            DataError: It is not a JSON object.
        """
        return read_json(self.path / "config.json")

    @cached_property
    def adapter(self) -> dict[str, Any] | None:
        """The content of ``adapter_config.json``, None if this is no adapter.

        Raises:
            DataError: It is not a JSON object.
        """
        return read_json(self.path / "adapter_config.json")

    @property
    def is_export(self) -> bool:
        """Whether this is an ONNX export."""
        return (self.path / EXPORT_FILE).is_file()

    @property
    def has_spec(self) -> bool:
        """Whether the directory says itself how texts become vectors."""
        return (self.path / SPEC_FILE).is_file()

    @property
    def is_masked(self) -> bool:
        """Whether this is a masked language model with its head (BERT, as in SPLADE)."""
        return is_masked(self.config or {})

    @cached_property
    def vocabulary_size(self) -> int:
        """How many ids the model has logits for.

        Raises:
            DataError: ``config.json`` does not say.
        """
        config = self.config or {}
        size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
        if not isinstance(size, int) or size < 1:
            raise DataError(f"{self.path}: config.json has no usable vocab_size ({size!r}); restore the file")
        return size

    @cached_property
    def adapter_vocabulary(self) -> int | None:
        """How many ids an adapter's own embedding and output layer have, None if it has none or this is no adapter.

        Raises:
            DataError: A file is damaged.
        """
        return saved_vocabulary(self.path) if self.adapter is not None else None

    def require_language_model(self) -> None:
        """Refuse a directory that holds neither a causal nor a masked language model, saying what it is instead.

        Raises:
            UsageError: It is an ONNX export.
            ResourceError: It is not a model directory, or has no weights in a form that is safe to read.
            DataError: It is a model of another kind.
        """
        if self.is_export:
            raise UsageError(f"{self.path}: an ONNX export, without torch's weights; use the model it was made from")
        # A published model that we know may carry another library's files beside its own.
        foreign = (self.path / "modules.json").is_file() and self.known is None and not self.has_spec
        if foreign and not (self.is_masked and self._is_splade):
            listed = ", ".join(module["type"] for module in self._modules) or "no modules"
            raise DataError(f"{self.path}: a sentence-transformers checkpoint ({listed}): {self._other_library}")
        if self.adapter is None and self.config is None:
            raise ResourceError(
                f"{self.path}: not a model directory: neither config.json nor adapter_config.json is there; check the "
                "path"
            )
        if self.config is not None:
            _require_head(str(self.path), self.config)
        self._require_weights()

    def require_causal(self, name: str) -> None:
        """Refuse to adapt a masked language model.

        Args:
            name: The model's name, for the message.

        Raises:
            UsageError: It is one.
        """
        if self.is_masked:
            raise UsageError(
                f"{name}: a masked language model ({_architecture(self.config or {})}): adaptation predicts next "
                "tokens, which it does not; train it as it is, with `train retrieve`"
            )

    def base(self, reference: ModelReference) -> ModelFolder | None:
        """Return the directory of an adapter's base model, None if this is no adapter.

        Args:
            reference: May name another base than the adapter does.

        Raises:
            UsageError: A base is named, but this is no adapter.
            ResourceError: The base model is not there.
            DataError: The adapter names no base, or the base is no language model.
        """
        if self.adapter is None:
            if reference.base is not None:
                raise UsageError(f"{self.path}: base={reference.base} is given, but this is no adapter; leave base out")
            return None
        named = reference.base or self.adapter.get("base_model_name_or_path")
        if not named:
            raise DataError(f"{self.path}: the adapter does not name its base model; add base=PATH_OR_HUB_ID")
        beside = self.path / str(named)
        try:
            found = beside if beside.is_dir() else resolve_folder(str(named), None, reference.trust_remote_code)
        except ResourceError as error:
            raise ResourceError(f"{error} (the base model of the adapter {self.path}); {OTHER_BASE}") from error
        base = ModelFolder.at(found)
        base.require_language_model()
        if base.adapter is not None:
            raise DataError(f"{found}: the base model of {self.path} is an adapter itself; merge that one first")
        return base

    def base_name(self, reference: ModelReference) -> str | None:
        """Return the name by which an adapter's base is found from anywhere: an absolute path, or a hub id."""
        named = str(reference.base or (self.adapter or {}).get("base_model_name_or_path") or "")
        places = (self.path / named, Path(named))
        return next((str(place.resolve()) for place in places if named and place.is_dir()), named or None)

    def _require_weights(self) -> None:
        weights = "adapter_model" if self.adapter is not None else "model"
        index = read_json(self.path / f"{weights}.safetensors.index.json") or {}
        shards = set(index.get("weight_map", {}).values())
        missing = sorted(name for name in shards if not (self.path / name).is_file())
        if missing:
            raise ResourceError(
                f"{self.path}: incomplete: {', '.join(missing[:3])} is missing; download or copy it again"
            )
        if not list(self.path.glob(f"{weights}*.safetensors")):
            pickled = sorted(path.name for path in (*self.path.glob("*.bin"), *self.path.glob("*.pt*")))
            found = "there are no weights at all"
            if pickled:
                found = f"there is only {', '.join(pickled[:3])}, which can run code when it is read"
            raise ResourceError(
                f"{self.path}: no {weights}.safetensors: {found}; convert it: load it with transformers or peft where "
                "you trust it and call save_pretrained"
            )

    @cached_property
    def _modules(self) -> list[dict[str, Any]]:
        """The modules of a sentence-transformers directory, each with its ``type`` and ``path``."""
        path = self.path / "modules.json"
        try:
            modules = json.loads(path.read_text(encoding="utf-8"))
            return [{"type": str(module["type"]).rsplit(".", 1)[-1], "path": str(module["path"])} for module in modules]
        except (ValueError, OSError, TypeError, KeyError) as error:
            raise DataError(f"{path}: cannot be read: {error}; restore the file") from error

    @property
    def _is_splade(self) -> bool:
        """Whether a sentence-transformers directory means the vectors that its masked language model has as SPLADE."""
        kinds = [module["type"] for module in self._modules]
        if kinds == ["Transformer", "SpladePooling"]:  # as version 6 writes; earlier ones, as MLMTransformer
            task = (read_json(self.path / "sentence_bert_config.json") or {}).get("transformer_task")
            with_head = task == "fill-mask"
        else:
            with_head = kinds == ["MLMTransformer", "SpladePooling"]
        if not with_head or self._modules[0]["path"]:
            return False
        pooling = read_json(self.path / self._modules[1]["path"] / "config.json") or {}
        said = read_json(self.path / "config_sentence_transformers.json") or {}
        prompts = said.get("prompts") or {}
        # The activation log1p_relu is a logarithm of the logarithm.
        usual = (pooling.get("pooling_strategy"), pooling.get("activation_function")) == ("max", "relu")
        lowers = (read_json(self.path / "sentence_bert_config.json") or {}).get("do_lower_case")
        return usual and not lowers and not said.get("default_prompt_name") and not any(prompts.values())

    @cached_property
    def sentence_transformers_fields(self) -> dict[str, Any]:
        """Fields of an encoding spec that a SPLADE in sentence-transformers' layout says; none of another directory.

        Raises:
            DataError: A file cannot be read, or a value is not a whole number above 0.
        """
        if not (self.path / "modules.json").is_file() or not self._is_splade:
            return {}
        fields: dict[str, Any] = {}
        for file, setting, field in (
            ("sentence_bert_config.json", "max_seq_length", "max_length"),
            ("config_sentence_transformers.json", "max_active_dims", "top_k"),
        ):
            value = (read_json(self.path / file) or {}).get(setting)
            if value is None and setting == "max_seq_length":
                file = "tokenizer_config.json"  # where its version 6 writes it
                value = (read_json(self.path / file) or {}).get("model_max_length")
                if isinstance(value, int | float) and value > MOST_TOKENS:  # transformers' way to say nothing
                    value = None
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DataError(
                    f"{self.path / file}: {setting}: not a whole number above 0: {value!r}; correct the file"
                )
            fields |= {f"query_{field}": value, f"document_{field}": value}
        return fields

    @property
    def _other_library(self) -> str:
        """Why a sentence-transformers directory is refused, and what to do."""
        said = read_json(self.path / "config_sentence_transformers.json") or {}
        sparse = any(module["type"] in _SPARSE_MODULES for module in self._modules)
        if sparse or said.get("model_type") == "SparseEncoder":
            return (
                "its output layer and its encoding contract lie in modules of another library; only the native layout "
                "can be loaded (the causal language model with its output layer, and encoding_spec.json), and a masked "
                "language model with SpladePooling of max and relu, without prompts"
            )
        return "its vectors are dense, not sparse; use Pyserini's --encoder-class sentence-transformers for it"


def is_masked(config: dict[str, Any]) -> bool:
    """Tell whether a model's configuration is that of a masked language model with its head."""
    return _architecture(config).endswith("ForMaskedLM")


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return next((name for name in named if isinstance(name, str)), "") if isinstance(named, list) else ""


def _require_head(where: str, config: dict[str, Any]) -> None:
    """Refuse a configuration whose architecture is not a language model of one of two kinds, with its head."""
    kind = _architecture(config)
    found = f"its config.json says {kind or 'nothing of the architecture'}, model type {config.get('model_type')!r}"
    if config.get("is_encoder_decoder"):
        raise DataError(
            f"{where}: an encoder-decoder model: {found}; only causal and masked language models can be used here"
        )
    # GPT2LMHeadModel is older than the convention.
    if kind and not is_masked(config) and not kind.endswith(("ForCausalLM", "GPT2LMHeadModel")):
        raise DataError(
            f"{where}: not a language model with its output layer: {found}; save it as ...ForCausalLM, or a BERT as "
            "...ForMaskedLM"
        )
