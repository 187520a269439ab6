"""The description of an export, which lies in its directory and is read without onnx or onnxruntime."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pyserini_llm_sparse.errors import DataError, ResourceError, SpecMismatchError, UsageError, one_line
from pyserini_llm_sparse.files.digests import sampled_bytes
from pyserini_llm_sparse.files.settings import read_json
from pyserini_llm_sparse.modelling.fingerprint import weights_fingerprint
from pyserini_llm_sparse.modelling.folder import EXPORT_FILE
from pyserini_llm_sparse.modelling.names import SPEC_FILE
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from pyserini_llm_sparse.onnx.runtime.precision import Precision

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
REPORT_FILE = "report.json"

# The projections before and after attention; the first ones and the last one of the feed-forward network; the
# vocabulary projection.
Part = Literal["attention", "feed_forward", "down", "head"]
# How a part multiplies. In int8 both factors are; in blocks, weights have a scale for a few neighbours.
NumberFormat = Literal["float32", "float16", "bfloat16", "int8", "int8_blocks", "int4_blocks"]
# Fields of the encoding spec that the graph computes; all others act before or after it and can be changed by name.
FIELDS_IN_GRAPH = (
    "attention",
    "logit_scale",
    "excluded_token_ids",
    "term_folding",
    "calibrated_head",
    "activation",
)


class ExportDescription(BaseModel):
    """What must be known of an export to load it.

    Attributes:
        version: Version of this format, and of the graph's inputs and outputs.
        precision: What was asked for.
        formats: How each part of the model multiplies.
        vocabulary_size: Number of ids that the model has logits for.
        positions: Maximum number of tokens of a text, special tokens and for echo both copies included.
        digest: Names the files that the vectors depend on; see `export_digest`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    precision: Precision
    formats: dict[Part, NumberFormat]
    vocabulary_size: int = Field(ge=1)
    positions: int = Field(ge=1)
    digest: str

    def require_unchanged(self, folder: Path, tokenizer: TextTokenizer) -> None:
        """Refuse files that are not those of the export.

        Raises:
            ResourceError: One is missing or cannot be read.
            SpecMismatchError: They are others.
        """
        found = export_digest(folder, tokenizer)
        if found != self.digest:
            raise SpecMismatchError(
                f"{folder}: graph, weights or tokenizer are not those of the export: their digest is {found}, "
                f"{self.digest} in {EXPORT_FILE}; restore the files, or export the model again"
            )


def read_description(folder: Path) -> ExportDescription | None:
    """Return what an export's directory says of itself, None if it is no export.

    Raises:
        DataError: It cannot be read.
    """
    content = read_json(folder / EXPORT_FILE)
    if content is None:
        return None
    try:
        return ExportDescription.model_validate(content)
    except ValidationError as error:
        raise DataError(
            f"{folder / EXPORT_FILE}: not the description of an export that this version reads: "
            f"{one_line(error)}; export the model again"
        ) from error


def require_fields_in_graph(folder: Path, spec: EncodingSpec) -> None:
    """Refuse a spec in which a field that the graph computes was changed by name.

    Raises:
        UsageError: Naming each such field.
    """
    changed = [name for name in EncodingSpec.load(folder / SPEC_FILE).difference(spec) if name in FIELDS_IN_GRAPH]
    if changed:
        raise UsageError(
            f"{folder}: {', '.join(changed)}: cannot be changed: an ONNX export computes it in its graph; export the "
            "model with it: export --model MODEL," + ",".join(f"{name}=VALUE" for name in changed)
        )


def export_digest(folder: Path, tokenizer: TextTokenizer) -> str:
    """Return a digest of the graph, samples of its weights, the tokenizer and the query term weights.

    Raises:
        ResourceError: The graph or its weights are missing or cannot be read.
    """
    digest = hashlib.sha256(weights_fingerprint(folder, tokenizer).encode())
    try:
        digest.update((folder / GRAPH_FILE).read_bytes())
        digest.update(sampled_bytes(folder / WEIGHTS_FILE))
    except OSError as error:
        raise ResourceError(
            f"{error.filename or folder}: cannot be read: {error.strerror}; an export needs {GRAPH_FILE} and "
            f"{WEIGHTS_FILE}: restore them, or export the model again"
        ) from error
    return f"sha256:{digest.hexdigest()}"
