"""The encoding spec's fields as fields of a run file, derived from the spec so that none can be forgotten."""

from __future__ import annotations

from pydantic import create_model

from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.config.shared_fields import ModelConfig

# Fields of the spec that no run file has, and why.
NOT_IN_A_RUN_FILE = {
    "version": "the format that the spec is written in, which the package decides",
    "model_fingerprint": "names the weights that the run makes, and is computed from them",
}


def spec_field_names() -> list[str]:
    """Return the names of the spec's fields that a run file has, too."""
    return [name for name in EncodingSpec.model_fields if name not in NOT_IN_A_RUN_FILE]


def with_spec_fields(settings: type[ModelConfig]) -> type[ModelConfig]:
    """Return a subclass of some settings that has the spec's fields besides, with the spec's defaults and help.

    A field that the settings declare themselves keeps their default.
    """
    derived = {
        name: EncodingSpec.model_fields[name] for name in spec_field_names() if name not in settings.model_fields
    }
    fields = {name: (field.annotation, field) for name, field in derived.items()}
    return create_model(f"{settings.__name__}WithSpec", __base__=settings, __module__=settings.__module__, **fields)  # type: ignore[call-overload,no-any-return]
