"""Names of encoders: their grammar, which of them are ours, published models, and what a model directory holds.

The start-up hook asks this module about any encoder name that Pyserini is given, so it imports nothing heavy.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError

KEYWORD = "csplade"
EMBEDDED = Path(__file__).resolve().parents[1] / "models" / "csplade"
SPEC_FILE = "encoding_spec.json"  # as in spec.py, which imports pydantic

LOADING_OPTIONS = ("base", "tokenizer", "revision", "subfolder", "precision", "trust_remote_code")
FASTEST = "auto"  # in place of a precision: the fastest on the machine
_FIELD = re.compile(r",(?=[a-z_]+=)")

# Everything of a repository that is needed, and nothing that can run code or is another format's copy.
_WANTED = ["*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "openvino/*", "*.onnx*", "checkpoint-*"]


@dataclass(frozen=True)
class ModelReference:
    """A model and how it is to be loaded.

    Attributes:
        model: Path of a directory, or hub id.
        overrides: Fields of the encoding spec by name, values as text or as Python values.
        base: Path or hub id of the model that an adapter belongs to, instead of the one that the adapter names.
        tokenizer: Path or hub id of the tokenizer, instead of the model's own.
        revision: Branch, tag or commit on the hub.
        subfolder: Folder inside the repository or directory that holds the model.
        precision: Of the ONNX export that computes the vectors instead of torch, made at its first use; ``auto`` for
            what is the fastest.
        trust_remote_code: Whether code that comes with the model may run.
    """

    model: str
    overrides: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    tokenizer: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    precision: str | None = None
    trust_remote_code: bool = False

    def with_options(self, **options: Any) -> ModelReference:
        """Return the reference with loading options and spec fields added or replaced; None leaves one as it is."""
        values = {name: getattr(self, name) for name in LOADING_OPTIONS}
        overrides = dict(self.overrides)
        for name, value in options.items():
            if name in LOADING_OPTIONS:
                values[name] = values[name] if value is None else value
            else:
                overrides[name] = value
        values["trust_remote_code"] = _truth("trust_remote_code", values["trust_remote_code"])
        return ModelReference(self.model, overrides, **values)


@dataclass(frozen=True)
class PublishedModel:
    """What a published checkpoint does not say itself: its contract (docs of the model, or its paper's code).

    Attributes:
        spec: Fields of its encoding spec.
        tokenizer: Whose tokenizer it uses, if it comes without one.
        subfolder: Where in the repository it lies.
        hidden_size_exponent: The logit scale is the model's hidden size to this power.
    """

    spec: dict[str, Any]
    tokenizer: str | None = None
    subfolder: str | None = None
    hidden_size_exponent: float = 0.0


_LION = PublishedModel(  # arXiv 2502.15526 and the model's README
    {"attention": "bidirectional", "add_bos": True, "query_max_length": 64, "document_max_length": 192},
    hidden_size_exponent=-0.25,
)
_LACONIC = PublishedModel(  # arXiv 2601.01684; without a tokenizer of its own, all three sizes have that of Llama 3
    {
        "attention": "bidirectional", "add_bos": False, "query_prefix": "query: ", "document_prefix": "passage: ",
        "query_max_length": 256, "document_max_length": 256, "query_top_k": 512, "document_top_k": 512,
    },
    tokenizer="meta-llama/Llama-3.2-1B",
)  # fmt: skip
_SPLADE_CODE = {
    "attention": "bidirectional", "add_bos": False, "query_max_length": 1024, "document_max_length": 1024,
}  # fmt: skip

PUBLISHED: dict[str, PublishedModel] = {
    "hzeng/lion-sp-1b-llama3-marco-mntp": _LION,
    "hzeng/lion-sp-8b-llama3-marco-mntp": _LION,
    "utahnlp/laconic-1b": _LACONIC,
    "utahnlp/laconic-3b": _LACONIC,
    "utahnlp/laconic-8b": _LACONIC,
    "naver/splade-code-06b": PublishedModel(_SPLADE_CODE),
    "naver/splade-code-8b": PublishedModel(_SPLADE_CODE, subfolder="lora"),
}

# Of masked language models without a spec: what Pyserini's own encoders of SPLADE do (arXiv 2109.10086).
SPLADE: dict[str, Any] = {
    "attention": "bidirectional", "query_max_length": 256, "document_max_length": 256, "impact_factor": 256 / 5,
}  # fmt: skip


def published(model: str) -> PublishedModel | None:
    """Return the contract of a published model by its hub id, in any case of letters; None if it is not known."""
    return PUBLISHED.get(model.lower())


def parse_encoder_name(name: str) -> ModelReference:
    """Read an encoder's name.

    ``csplade`` is the model that the package carries; ``csplade:MODEL`` one at a path or on the hub, and so is any
    other text. Each may be followed by ``,field=value``: fields of the encoding spec, or one of `LOADING_OPTIONS`. A
    comma that no ``name=`` follows belongs to the path or value before it.

    Raises:
        UsageError: No model is named, or a field is given twice.

    >>> parse_encoder_name("csplade:org/model,attention=echo,query_prefix=query, ").overrides
    {'attention': 'echo', 'query_prefix': 'query, '}
    """
    model, *fields = _FIELD.split(name)
    if model.lower() == KEYWORD:
        model = str(EMBEDDED)
    elif model.lower().startswith(f"{KEYWORD}:"):
        model = model[len(KEYWORD) + 1 :]
    if not model.strip() or ("=" in model and not Path(model).exists()):
        raise UsageError(
            f"encoder {name!r}: names no model; write csplade, csplade:PATH or csplade:HUB_ID, each with ,field=value"
        )
    options: dict[str, str] = {}
    for part in fields:
        key, value = part.split("=", 1)
        if key in options:
            raise UsageError(f"encoder {name!r}: {key} is given twice; keep one")
        options[key] = value
    return ModelReference(model).with_options(**options)


def is_ours(name: str | None, force: bool = False) -> bool:
    """Tell whether an encoder name means an encoder of this package.

    Ours are the keyword ``csplade`` with or without a model, any path or hub id that contains it (Pyserini, too, infers
    an encoder's class from a part of its name), published models that we know, and directories with an encoding spec.
    A file is never ours: Pyserini reads encoded queries from it.

    Args:
        name: What Pyserini was given as ``--encoder``.
        force: Whether ``--encoder-class csplade`` was given, which makes any name ours.
    """
    if not name:
        return False
    if force:
        return True
    if name.lower().startswith((f"{KEYWORD}:", f"{KEYWORD},")):
        return True
    try:
        path = Path(_FIELD.split(name)[0])
        if path.is_file() or Path(name).is_file():
            return False
        if path.is_dir():  # of a directory its own name counts, not those of the folders that it lies in
            return (path / SPEC_FILE).is_file() or KEYWORD in path.resolve().name.lower()
    except (OSError, ValueError):
        return False  # too long, or with a NUL: no path
    return KEYWORD in name.lower() or published(str(path)) is not None


def resolve_folder(model: str, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """Return the directory of a model: the path itself, or the hub's snapshot, downloaded if that is allowed.

    ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` are the hub library's own variables.

    Raises:
        ResourceError: There is no such directory and no such model on the hub or in its cache.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path == EMBEDDED:
        raise ResourceError(f"{path}: the embedded model is missing: the installation is incomplete; reinstall")
    if path.exists() or path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ResourceError(f"{model}: no such model directory; check the path")
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    wanted = [*_WANTED, "*.py"] if trust_remote_code else _WANTED
    try:
        return Path(
            huggingface_hub.snapshot_download(
                model, revision=revision, allow_patterns=wanted, ignore_patterns=_UNWANTED
            )
        )
    except hub_errors.GatedRepoError as error:
        raise ResourceError(
            f"{model}: a gated model: its licence must be accepted on https://huggingface.co/{model} first; then set "
            "HF_TOKEN, or run `hf auth login`"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ResourceError(
            f"{model}: neither a directory nor a model on the hub (or a private one); check the name, or set HF_TOKEN"
        ) from error
    except (OSError, ValueError, hub_errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise ResourceError(
            f"{model}: neither a directory nor in the hub's cache, and it cannot be downloaded: {reason}; check the "
            "name, unset HF_HUB_OFFLINE to download it, and set HF_TOKEN for a gated model"
        ) from error


def require_language_model(folder: Path, known: bool = False) -> None:
    """Refuse a directory that holds neither a causal nor a masked language model, saying what it is and what to do.

    Args:
        folder: The directory.
        known: Whether it is a published model that we know, which may carry another library's files beside its own.

    Raises:
        ResourceError: It is not a model directory, or has no weights in a form that is safe to read.
        DataError: It is a model of another kind.
    """
    where, config = str(folder), read_json(folder / "config.json")
    foreign = (folder / "modules.json").is_file() and not known and not (folder / SPEC_FILE).is_file()
    if foreign and not (config is not None and is_masked(config) and _is_splade(folder)):
        listed = ", ".join(module["type"] for module in _modules(folder)) or "no modules"
        raise DataError(f"{where}: a sentence-transformers checkpoint ({listed}): {_st_remedy(folder)}")
    adapter = read_json(folder / "adapter_config.json")
    if adapter is None and config is None:
        raise ResourceError(
            f"{where}: not a model directory: neither config.json nor adapter_config.json is there; check the path"
        )
    if config is not None:
        _require_head(where, config)
    weights = "adapter_model" if adapter is not None else "model"
    index = read_json(folder / f"{weights}.safetensors.index.json") or {}
    missing = sorted(name for name in set(index.get("weight_map", {}).values()) if not (folder / name).is_file())
    if missing:
        raise ResourceError(f"{where}: incomplete: {', '.join(missing[:3])} is missing; download or copy it again")
    if not list(folder.glob(f"{weights}*.safetensors")):
        pickled = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt*")))
        found = f"only {', '.join(pickled[:3])}, which can run code when it is read" if pickled else "no weights at all"
        raise ResourceError(
            f"{where}: no {weights}.safetensors: there is {found}; convert it: load it with transformers or peft where "
            "you trust it and call save_pretrained"
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object, None if there is no such file.

    Raises:
        DataError: The file is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}; restore the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; restore the file")
    return content


def is_masked(config: dict[str, Any]) -> bool:
    """Tell whether a model's configuration is that of a masked language model with its head (BERT, as in SPLADE)."""
    return _architecture(config).endswith("ForMaskedLM")


def require_causal(where: str, config: dict[str, Any]) -> None:
    """Refuse to adapt a masked language model.

    Raises:
        UsageError: The configuration is that of one.
    """
    if is_masked(config):
        raise UsageError(
            f"{where}: a masked language model ({_architecture(config)}): adaptation predicts next tokens, which "
            "it does not; train it as it is, with `train retrieve`"
        )


def _architecture(config: dict[str, Any]) -> str:
    return next((name for name in config.get("architectures") or [] if isinstance(name, str)), "")


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


def _modules(folder: Path) -> list[dict[str, Any]]:
    """Return the modules of a sentence-transformers directory, each with its ``type`` and ``path``."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return [{"type": str(module["type"]).rsplit(".", 1)[-1], "path": str(module["path"])} for module in modules]
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise DataError(f"{folder / 'modules.json'}: cannot be read: {error}; restore the file") from error


def _is_splade(folder: Path) -> bool:
    """Tell whether a sentence-transformers directory means the vectors that its masked language model has as SPLADE."""
    modules = _modules(folder)
    kinds = [module["type"] for module in modules]
    if kinds == ["Transformer", "SpladePooling"]:  # as version 6 writes; earlier ones, as MLMTransformer
        with_head = (read_json(folder / "sentence_bert_config.json") or {}).get("transformer_task") == "fill-mask"
    else:
        with_head = kinds == ["MLMTransformer", "SpladePooling"]
    if not with_head or modules[0]["path"]:
        return False
    pooling = read_json(folder / modules[1]["path"] / "config.json") or {}
    prompts = (read_json(folder / "config_sentence_transformers.json") or {}).get("prompts") or {}
    # The activation log1p_relu is a logarithm of the logarithm.
    usual = (pooling.get("pooling_strategy"), pooling.get("activation_function")) == ("max", "relu")
    return usual and not any(prompts.values())


def _st_remedy(folder: Path) -> str:
    """Say why a sentence-transformers directory is refused, and what to do."""
    if any(module["type"] == "SpladePooling" for module in _modules(folder)):
        return (
            "its output layer and its encoding contract lie in modules of another library; only the native layout can "
            "be loaded (the causal language model with its output layer, and encoding_spec.json), and a masked "
            "language model with SpladePooling of max and relu, without prompts"
        )
    return "its vectors are dense, not sparse; use Pyserini's --encoder-class sentence-transformers for it"


def _truth(name: str, value: Any) -> bool:
    """Read a yes or no."""
    text = str(value).lower()
    if text in ("true", "1", "yes"):
        return True
    if text in ("false", "0", "no"):
        return False
    raise UsageError(f"{name}={value}: neither true nor false; write {name}=true or leave it out")
