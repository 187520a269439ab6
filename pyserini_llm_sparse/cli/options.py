"""The options that several commands share, with one name and one meaning each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pyserini_llm_sparse.modelling.names import FASTEST, KEYWORD
from pyserini_llm_sparse.onnx.runtime.precision import PRECISIONS

Encoder = Annotated[
    str,
    typer.Option(
        help=f"{KEYWORD}, {KEYWORD}:PATH_OR_HUB_ID, or a path or hub id; may end with ,FIELD=VALUE of the spec."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Where the model runs, such as cpu or cuda:0; by default chosen automatically.")
]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default what suits the device.")]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar=f"[{'|'.join([*PRECISIONS, FASTEST])}]",
        help=f"Compute with ONNX Runtime in this precision; the model is exported at first use. {FASTEST}: the "
        "fastest on this machine.",
    ),
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Texts computed together.")]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads; by default all cores.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the output holds.")]


def load_encoder(name: str, device: str | None, dtype: str | None, threads: int | None, **overrides: Any) -> Any:
    """Load an encoder as the shared options say; overrides that are None are left out.

    Raises:
        LlmSparseError: It cannot be loaded; see `SparseEncoder.load`.
    """
    from pyserini_llm_sparse.encoder import SparseEncoder

    return SparseEncoder.load(name, device=device, dtype=dtype, threads=threads, **given(overrides))


def given(overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given a value."""
    return {name: value for name, value in overrides.items() if value is not None}
