"""The tensors of safetensors files: names, types, shapes and places, read without torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyserini_llm_sparse.errors import DataError, ResourceError

# The last part but one of an embedding's or output layer's name, in the families that peft and transformers know.
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "decoder")

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class StoredTensor(NamedTuple):
    """A tensor in a file.

    Attributes:
        name: Its name.
        dtype: Its type, by safetensors' name.
        shape: Its shape.
        start: Where its bytes begin in the file.
        stop: Where they end.
    """

    name: str
    dtype: str
    shape: list[int]
    start: int
    stop: int


def stored_tensors(path: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of a safetensors file, in the order of its header.

    Raises:
        DataError: The file is damaged.
        ResourceError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            raw = file.read(header_size)
        header = json.loads(raw)
        size = path.stat().st_size - 8 - header_size
        if len(raw) != header_size:
            raise ValueError("it ends within its header")
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, stop = entry["data_offsets"]
            if not 0 <= start <= stop <= size:
                raise ValueError(f"it ends before the tensor {name} does")
            yield StoredTensor(
                name, str(entry["dtype"]), list(entry["shape"]), 8 + header_size + start, 8 + header_size + stop
            )
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f"{path}: not a whole safetensors file: {error}; download or copy it again") from error
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read: {error.strerror}; check the file") from error


def stored_dtype(folder: Path) -> str | None:
    """Return the type that most of a model's weights have on disk, by torch's name; None if it is none to train in.

    Raises:
        DataError: A file is damaged.
    """
    sizes: Counter[str] = Counter()
    for path in sorted(folder.glob("model*.safetensors")):
        for tensor in stored_tensors(path):
            sizes[tensor.dtype] += tensor.stop - tensor.start
    most = sizes.most_common(1)
    return _DTYPES.get(most[0][0]) if most else None


def saved_vocabulary(folder: Path) -> int | None:
    """Return how many rows an adapter's own embedding and output layer have; None if it was saved without them.

    Raises:
        DataError: A file is damaged.
    """
    for path in sorted(folder.glob("adapter_model*.safetensors")):
        for tensor in stored_tensors(path):
            parts = tensor.name.replace(".base_layer.", ".").replace(".modules_to_save.", ".").split(".")
            if parts[-1] == "weight" and parts[-2:-1] and parts[-2] in EMBEDDINGS and len(tensor.shape) == 2:
                return tensor.shape[0]
    return None
