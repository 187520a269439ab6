"""The encoding spec: one frozen, versioned object that says everything that defines a vector.

Weights alone are not enough: two published Llama-3.2-1B models differ in logit scale, BOS and prefixes, and the wrong
BOS setting alone moves one of them from 0.752 to 0.022 nDCG@10 on SciFact. The spec is therefore saved with the model,
beside the vectors and inside the index, and compared when an index is searched.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pyserini_llm_sparse.errors import DataError, ResourceError, SpecMismatchError
from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.settings import read_json
from pyserini_llm_sparse.modelling.names import SPEC_FILE

MADE_BY = "made_by"  # in a file beside the fields: the name of the model, which defines nothing
ALLOW_MISMATCH = "PYSERINI_LLM_SPARSE_ALLOW_MISMATCH"  # fields that may differ between encoder and index

# Fields that version 0.1 does not know. At their defaults they are written nowhere, so that it reads such a spec and
# comes to the same digest.
LATER_FIELDS = frozenset({"text_normalisation", "term_folding", "calibrated_head"})

Attention = Literal["causal", "echo", "bidirectional"]
Side = Literal["query", "document"]


class EncodingSpec(BaseModel):
    """Everything that turns a text into a sparse vector, besides the weights that the fingerprint names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    version: Literal[1] = Field(default=1, description="Version of this format.")
    attention: Attention = Field(
        description="causal; echo, where the text is repeated and only the second copy is pooled (CSPLADE, section "
        "3.2); or bidirectional, with the causal mask removed."
    )
    query_encoder: Literal["model", "inference-free"] = Field(
        default="model",
        description="model, where queries are encoded as documents are; or inference-free, where a query is the terms "
        "that it contains, weighted from a table.",
    )
    query_term_counts: bool = Field(
        default=False, description="With inference-free queries, whether a repeated term counts each time."
    )
    logit_scale: float = Field(
        default=1.0,
        gt=0,
        description="Factor on the logits before the activation (Lion uses hidden_size ** -0.25).",
    )
    add_bos: bool = Field(default=True, description="Whether a sequence starts with the tokenizer's BOS token.")
    add_eos: bool = Field(default=False, description="Whether a sequence ends with the tokenizer's EOS token.")
    query_prefix: str = Field(default="", description="Text put before each query.")
    document_prefix: str = Field(default="", description="Text put before each document.")
    query_max_length: int = Field(
        default=64,
        ge=1,
        description="Maximum number of tokens of a query, special tokens and prefix included; for echo, of one copy.",
    )
    document_max_length: int = Field(
        default=256,
        ge=1,
        description="Maximum number of tokens of a document, counted in the same way.",
    )
    text_normalisation: Literal["none", "nfkc", "lowercase"] = Field(
        default="none",
        description="What is done to a text, but not to its prefix, before it is tokenised: nfkc is Unicode's form of "
        "that name, lowercase the same and then lower case.",
    )
    pooled_span: Literal["all", "text"] = Field(
        default="all",
        description="all pools every position; text attends to BOS, EOS and the prefix but does not pool them.",
    )
    excluded_token_ids: tuple[int, ...] = Field(default=(), description="Token ids that never become terms.")
    term_folding: Literal["none", "surface"] = Field(
        default="none",
        description="surface makes one term of all tokens that are the same word but for case, leading space and "
        "Unicode form; it weighs as much as the heaviest of them.",
    )
    calibrated_head: bool = Field(
        default=False,
        description="Whether a vector of the model's directory, made by `train calibrate`, is subtracted from each row "
        "of the output layer, which leaves the language model what it is and makes its logits sparse.",
    )
    activation: Literal["log1p_relu"] = Field(
        default="log1p_relu", description="Turns the largest logit into a weight: log1p_relu is log(1 + max(x, 0))."
    )
    query_top_k: int | None = Field(
        default=None, ge=1, description="Keep at most this many terms of a query vector; by default all."
    )
    document_top_k: int | None = Field(
        default=None, ge=1, description="Keep at most this many terms of a document vector; by default all."
    )
    impact_factor: float = Field(
        default=100.0,
        gt=0,
        description="Impacts per unit of weight: round(weight * factor); a term whose impact is 0 is dropped.",
    )
    impact_maximum: int = Field(default=65535, ge=1, le=2**24, description="Upper bound of an impact.")
    term_naming: Literal["token", "id"] = Field(
        default="token",
        description="token names a term by the tokenizer's token, made safe for Lucene; id by its decimal id.",
    )
    model_fingerprint: str = Field(
        default="", description="Names weights, configuration and tokenizer; computed when the model is saved."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_name(cls, content: Any) -> Any:
        return {key: content[key] for key in content if key != MADE_BY} if isinstance(content, dict) else content

    @classmethod
    def load(cls, path: str | Path) -> EncodingSpec:
        """Read a spec from a file, or from the `SPEC_FILE` of a directory.

        Raises:
            ResourceError: The file is not there or cannot be read.
            DataError: It is not JSON, or a field is unknown or has an impossible value.
        """
        path = Path(path)
        if path.is_dir():
            path = path / SPEC_FILE
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not an encoding spec: {error}; restore the file") from error
        except OSError as error:
            raise ResourceError(f"{path}: cannot read the encoding spec: {error.strerror}; check the path") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise DataError(f"{path}: not a usable encoding spec: {_reasons(error)}; correct or restore it") from error

    def save(self, path: str | Path, made_by: str = "") -> Path:
        """Write the spec to a file, or as `SPEC_FILE` into a directory, atomically. Returns the file's path.

        Args:
            path: The file or directory.
            made_by: The name of the model that made what the spec lies beside, for messages; see `maker`.

        Raises:
            ResourceError: The disk is full, or the folder cannot be written to.
        """
        path = Path(path)
        if path.is_dir():
            path = path / SPEC_FILE
        with atomic_file(path) as stream:
            content = {**self._content(), **({MADE_BY: made_by} if made_by else {})}
            stream.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
        return path

    def digest(self) -> str:
        """Return the SHA-256 (hexadecimal) of the spec's canonical JSON."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        """Return the fields as they are written."""
        content = self.model_dump(mode="json")
        defaults = {name: type(self).model_fields[name].default for name in LATER_FIELDS}
        return {name: value for name, value in content.items() if name not in defaults or value != defaults[name]}

    def replace(self, **changes: Any) -> EncodingSpec:
        """Return a spec with some fields changed; values may be text, as from a command line.

        Raises:
            DataError: A field is unknown or a value impossible.
        """
        try:
            return type(self).model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise DataError(f"encoding spec: cannot set {', '.join(changes)}: {_reasons(error)}; correct it") from error

    def difference(self, other: EncodingSpec) -> dict[str, tuple[Any, Any]]:
        """Return ``{field: (own value, other's value)}`` for each field that differs; see also `same_model`."""
        own, theirs = self.model_dump(), other.model_dump()
        if same_model(self.model_fingerprint, other.model_fingerprint):
            theirs["model_fingerprint"] = own["model_fingerprint"]
        return {field: (own[field], theirs[field]) for field in own if own[field] != theirs[field]}

    def require_equal(
        self,
        other: EncodingSpec,
        here: str,
        there: str,
        allowed: Collection[str] = (),
        makers: tuple[str, str] = ("", ""),
    ) -> None:
        """Refuse another spec that differs in a field that is not among the allowed ones.

        Args:
            other: The spec to compare with.
            here: What this spec belongs to, for the message (``the encoder csplade``).
            there: What the other belongs to (``the index /data/index``).
            allowed: Names of fields that may differ.
            makers: Names of this model and of the other, as far as they are known.

        Raises:
            SpecMismatchError: Naming each field with both values.
        """
        differing = {field: both for field, both in self.difference(other).items() if field not in allowed}
        if not differing:
            return
        shown = {
            field: tuple(map(repr, both))
            if field != "model_fingerprint"
            else tuple(f"{maker} {short_fingerprint(one)}".strip() for maker, one in zip(makers, both, strict=True))
            for field, both in differing.items()
        }
        listed = "; ".join(
            f"{'the model (weights, settings, tokenizer)' if field == 'model_fingerprint' else field} is {own} here, "
            f"{theirs} there"
            for field, (own, theirs) in shown.items()
        )
        raise SpecMismatchError(
            f"{here}: was not made under the same encoding spec as {there}: {listed}; use the encoder that made it, or "
            f"allow the difference by name with {ALLOW_MISMATCH}={','.join(differing)}"
        )

    def prefix(self, side: Side) -> str:
        """Return the text put before a query or a document."""
        return self.query_prefix if side == "query" else self.document_prefix

    def max_length(self, side: Side) -> int:
        """Return the most tokens of a query or a document."""
        return self.query_max_length if side == "query" else self.document_max_length

    def top_k(self, side: Side) -> int | None:
        """Return the most terms of a query or a document vector, None for all."""
        return self.query_top_k if side == "query" else self.document_top_k


def same_model(one: str, other: str) -> bool:
    """Tell whether two fingerprints name the same model.

    Version 0.1 wrote the part before the plus sign alone; what the other part covers cannot be compared with it.

    >>> same_model("sha256:12", "sha256:12+34"), same_model("sha256:12+35", "sha256:12+34")
    (True, False)
    """
    (before, _, rest), (other_before, _, other_rest) = one.partition("+"), other.partition("+")
    return before == other_before and (rest == other_rest or not rest or not other_rest)


def short_fingerprint(fingerprint: str) -> str:
    """Return a fingerprint in as many digits as tell models apart for a reader.

    >>> short_fingerprint("sha256:cb352ba69effc347+06c3f10709042e3b"), short_fingerprint("")
    ('cb352ba6+06c3f107', 'without fingerprint')
    """
    parts = fingerprint.removeprefix("sha256:").split("+")
    return "+".join(part[:8] for part in parts) or "without fingerprint"


def maker(path: str | Path) -> str:
    """Return the name of the model that a file of a spec carries, empty if it carries none.

    Raises:
        DataError: The file is not a JSON object.
    """
    name = (read_json(Path(path)) or {}).get(MADE_BY)
    return name if isinstance(name, str) else ""


def sidecar(folder: str | Path) -> Path:
    """Return where the spec of a folder of vectors lies: beside it, for Lucene reads every file inside."""
    folder = Path(os.path.normpath(folder))
    return folder.parent / f"{folder.name}.{SPEC_FILE}"


def names_of_folder(folder: str | Path) -> list[Path]:
    """Return a folder's absolute path and, if that goes through a link, the one that it leads to.

    What lies beside a folder may lie beside either.
    """
    return list(dict.fromkeys((Path(folder).absolute(), Path(folder).resolve())))


def find_sidecar(folder: str | Path) -> Path | None:
    """Return the spec that lies beside a folder of vectors, under any of its names; None if there is none."""
    return next((path for name in names_of_folder(folder) if (path := sidecar(name)).is_file()), None)


def _reasons(error: ValidationError) -> str:
    """Say in one line what pydantic found wrong, all fields at once."""
    return "; ".join(
        f"{'.'.join(str(part) for part in found['loc']) or 'content'}: {found['msg']}" for found in error.errors()
    )
