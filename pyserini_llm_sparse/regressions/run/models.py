"""The models that systems use: where they are, and names of their content."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pyserini_llm_sparse.errors import PrerequisiteError, ResourceError
from pyserini_llm_sparse.files.digests import sampled_bytes

PACKAGE = "package:"


def located(model: str) -> str:
    """Return a model's path: ``package:NAME/FOLDER`` is a folder in an installed Python package.

    Without the package the name stays as it is; `dense_digest` says what is missing.
    """
    if not model.startswith(PACKAGE):
        return model
    package, _, folder = model.removeprefix(PACKAGE).partition("/")
    found = find_spec(package)
    return str(Path(found.origin).parent / folder) if found is not None and found.origin else model


@cache
def sparse_digest(encoder: str) -> str:
    """Return the name of the content of an encoder's model: the fingerprint in its spec.

    Raises:
        LlmSparseError: It cannot be found or used.
    """
    from pyserini_llm_sparse.encoder import SparseEncoder

    return SparseEncoder.load(encoder).spec.model_fingerprint


@cache
def dense_digest(model: str) -> str:
    """Return the name of a dense model's content: of its files, large ones sampled; of one on the hub, its id.

    Args:
        model: What `located` returned.

    Raises:
        PrerequisiteError: The package that holds it is not installed.
        ResourceError: A file cannot be read.
    """
    if model.startswith(PACKAGE):
        package = model.removeprefix(PACKAGE).partition("/")[0]
        raise PrerequisiteError(f"{model}: the package is not installed; pip install {package.replace('_', '-')}")
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"\n{path.relative_to(folder).as_posix()} ".encode())
            digest.update(sampled_bytes(path))
    except OSError as error:
        raise ResourceError(f"{error.filename}: cannot be read: {error.strerror}; check the file") from error
    return digest.hexdigest()
