"""The upload of a model directory to the hub: what goes there, and what would make it useless to others."""

from __future__ import annotations

import glob
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError, one_line
from pyserini_llm_sparse.modelling.folder import ModelFolder

CARD = "README.md"
TRAINING = "training"  # the folder in which a training run describes itself, with paths of the machine it ran on
_UNSAFE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.npy", "*.py")  # loading them can run code


def files_to_publish(folder: Path, training: bool = True) -> tuple[list[str], list[str]]:
    """Return the names of the files of a model directory that are uploaded, and of those that are left out.

    Hidden files are left out, and whatever can run code when it is loaded.

    Args:
        folder: The directory.
        training: Whether what a training run wrote about itself goes along.

    Raises:
        ResourceError: There is no such directory, or it holds no model.
        UsageError: It has no model card.
        DataError: It is an adapter whose base nobody else has.
    """
    model = ModelFolder.at(folder)
    if model.config is None and model.adapter is None and not (folder / "modules.json").is_file():
        raise ResourceError(f"{folder}: not a model directory: it has no config.json; name what training wrote")
    if not (folder / CARD).is_file():
        raise UsageError(f"{folder}: no {CARD}: a model without a card says nothing to others; write one")
    base = (model.adapter or {}).get("base_model_name_or_path")
    if base is not None and not _is_hub_id(str(base)):
        raise DataError(
            f"{folder}: adapter_config.json names its base by a path of this machine, {base}: nobody else could load "
            "it; write the base's hub id there, or train with save: merged"
        )
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    wanted = [name for name in names if training or PurePosixPath(name).parts[0] != TRAINING]
    published = [name for name in wanted if not _is_left_out(name)]
    return published, [name for name in names if name not in published]


def publish(
    folder: Path, repository: str, *, private: bool = False, revision: str | None = None, training: bool = True
) -> str:
    """Upload a model directory to a repository of the hub, in one commit; the repository is made if there is none.

    The token is the hub library's own (``HF_TOKEN``, or what ``hf auth login`` keeps).

    Args:
        folder: The directory.
        repository: ``OWNER/NAME``.
        private: Whether a repository that is made now is private.
        revision: The branch; by default ``main``.
        training: See `files_to_publish`.

    Returns:
        The address of the commit.

    Raises:
        LlmSparseError: As `files_to_publish` says.
        ResourceError: The hub cannot be reached, or refuses.
    """
    names, _ = files_to_publish(folder, training)
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in names],
            commit_message=f"Upload {folder.resolve().name}",
        )
    except hub_errors.HFValidationError as error:
        raise UsageError(f"{repository}: not the name of a repository; write OWNER/NAME") from error
    except (OSError, hub_errors.HfHubHTTPError) as error:  # LocalTokenNotFoundError is an OSError
        raise ResourceError(
            f"{repository}: cannot be uploaded to: {one_line(error)}; check the name, and that HF_TOKEN may write there"
        ) from error
    return str(commit.commit_url)


def _is_hub_id(name: str) -> bool:
    return (
        not Path(name).is_absolute()
        and not name.startswith((".", "~"))
        and name.count("/") <= 1
        and not Path(name).exists()
    )


def _is_left_out(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "__")) for part in parts) or any(fnmatch(parts[-1], each) for each in _UNSAFE)
