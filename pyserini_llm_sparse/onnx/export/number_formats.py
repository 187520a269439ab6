"""The number formats of an export's parts: which ones a precision tries, and their products."""

from __future__ import annotations

import torch

from pyserini_llm_sparse.onnx.graph.products import FloatProducts, PartProducts, Products
from pyserini_llm_sparse.onnx.graph.quantised import BlockProducts, Int8Products
from pyserini_llm_sparse.onnx.graph.writer import GraphWriter
from pyserini_llm_sparse.onnx.runtime.description import NumberFormat, Part
from pyserini_llm_sparse.onnx.runtime.precision import Precision

Formats = dict[Part, NumberFormat]


def same_formats(body: NumberFormat, head: NumberFormat | None = None) -> Formats:
    """Return one format for all parts but the head."""
    return {"attention": body, "feed_forward": body, "down": body, "head": head or body}


_INT8 = same_formats("int8")
_INT4 = same_formats("int4_blocks", "int8")
# The fastest first: blocks are closer to float32, but slower where both factors in int8 have instructions. After the
# head, whose logits are computed again where it matters, errors of attention cost the most terms, then those of the
# last projection, whose inputs have the largest outliers.
ATTEMPTS: dict[Precision, tuple[Formats, ...]] = {
    "fp32": (same_formats("float32"),),
    "fp16": (same_formats("float16"),),
    "bf16": (same_formats("bfloat16"),),
    "int8": (
        _INT8,
        _INT8 | {"down": "int8_blocks"},
        _INT8 | {"attention": "int8_blocks"},
        same_formats("int8_blocks", "int8"),
        same_formats("float32", "int8"),
    ),
    "int4": (_INT4, _INT4 | {"attention": "int8_blocks", "down": "int8_blocks"}),
}

QUANTISED: tuple[Precision, ...] = ("int8", "int4")


def in_words(formats: Formats) -> str:
    """Return the formats for messages, such as ``attention, down in int8; head in float32``."""
    parts: dict[NumberFormat, list[str]] = {}
    for part, chosen in formats.items():
        parts.setdefault(chosen, []).append(part)
    if len(parts) == 1:
        return f"all in {next(iter(parts))}"
    return "; ".join(f"{', '.join(names)} in {chosen}" for chosen, names in parts.items()).replace("_", "-")


def products_of(formats: Formats, writer: GraphWriter) -> PartProducts:
    """Return the products of each part.

    Args:
        formats: All floating-point formats of one type, or the head in int8.
        writer: The graph that they are added to.
    """
    made: dict[NumberFormat, Products] = {
        "float32": FloatProducts(writer, torch.float32),
        "float16": FloatProducts(writer, torch.float16),
        "bfloat16": FloatProducts(writer, torch.bfloat16),
        "int8": Int8Products(writer),
        "int8_blocks": BlockProducts(writer, 8),
        "int4_blocks": BlockProducts(writer, 4),
    }
    # Products with quantised weights take and return float32; their embeddings are kept in float16.
    types = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    activations = types.get(formats["head"])
    return PartProducts(
        **{part: made[chosen] for part, chosen in formats.items()},
        activations=activations or torch.float32,
        tables=activations or torch.float16,
    )
