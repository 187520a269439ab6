"""The models that systems use: where they are, and names of their content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pyserini_llm_sparse.errors import PrerequisiteError, ResourceError
from pyserini_llm_sparse.files.digests import sampled_bytes
from pyserini_llm_sparse.files.walk import files_below
from pyserini_llm_sparse.regressions.recipe.systems import NAME, TRAINED
from pyserini_llm_sparse.regressions.run.layout import MODEL
from pyserini_llm_sparse.regressions.run.steps import Step

PACKAGE = "package:"
_TRAINED_NAME = re.compile(f"{TRAINED}({NAME})")


class TrainedModels:
    """The models that a recipe trains; ``trained:NAME`` in a model's name is one of them."""

    def __init__(self, steps: Mapping[str, Step]) -> None:
        """Take the steps that train them, by their names."""
        self._steps = steps

    def steps_of(self, model: str) -> tuple[Step, ...]:
        """Return the step that trains a model, if the recipe has it."""
        return tuple(self._steps[found[1]] for found in _TRAINED_NAME.finditer(model))

    def located(self, model: str) -> str:
        """Return a model's name with the folder of a model that the recipe trains in its place."""
        return _TRAINED_NAME.sub(lambda found: str(self._steps[found[1]].folder / MODEL), model)


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
        for path in files_below(folder):
            digest.update(f"\n{path.relative_to(folder).as_posix()} ".encode())
            digest.update(sampled_bytes(path))
    except OSError as error:
        raise ResourceError(f"{error.filename}: cannot be read: {error.strerror}; check the file") from error
    return digest.hexdigest()
