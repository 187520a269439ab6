"""The directory of a model: a path, or the snapshot of a model on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from pyserini_llm_sparse.errors import ResourceError
from pyserini_llm_sparse.modelling.names import EMBEDDED

# Everything of a repository that is needed, and nothing that can run code or is another format's copy.
_WANTED = ["*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "openvino/*", "*.onnx*", "checkpoint-*"]


def resolve_folder(model: str, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """Return the directory of a model: the path itself, or the hub's snapshot, downloaded if that is allowed.

    ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` are the hub library's own variables.

    Raises:
        ResourceError: There is no such directory and no such model on the hub or in its cache.
    """
    path = Path(os.path.expanduser(model))  # noqa: PTH111  # which leaves ~ alone where there is no home
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
