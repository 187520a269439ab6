"""Names of encoders: their grammar, which of them are ours, published models, and what a model directory holds.

The start-up hook asks this module about any encoder name that Pyserini is given, so it imports nothing heavy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.files.settings import read_json
from pyserini_llm_sparse.modelling.names import EMBEDDED, SPEC_FILE

# Everything of a repository that is needed, and nothing that can run code or is another format's copy.
_WANTED = ["*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "openvino/*", "*.onnx*", "checkpoint-*"]


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
