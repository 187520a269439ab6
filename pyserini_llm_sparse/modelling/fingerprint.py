"""The fingerprint that names a model's weights and tokenizer in the encoding spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pyserini_llm_sparse.modelling.tensors import stored_tensors
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer

WEIGHT_FILES = ("model", "adapter_model", "query_term_weights")
SAMPLED_BYTES = 1024


def fingerprint(folder: str | Path, tokenizer: TextTokenizer, base: str | Path | None = None) -> str:
    """Name a model: ``sha256:`` and a digest over tokenizer and weights, without reading all of 8 B parameters.

    It covers the tokenizer (canonical JSON without truncation and padding, and the ids of BOS and EOS), and of each
    tensor of the model, the adapter, its base and the query term weights the name, type and shape and the first,
    middle and last KiB. How tensors are spread over files does not matter.

    Raises:
        DataError: A safetensors file is damaged.
    """
    digest = hashlib.sha256()
    content = json.loads(tokenizer.backend.to_str())
    content.pop("truncation", None)
    content.pop("padding", None)
    content["special"] = [tokenizer.bos_id, tokenizer.eos_id]
    digest.update(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
    for place in (folder, *([base] if base else [])):
        tensors = [found for path in _weight_files(Path(place)) for found in _tensors(path)]
        for name, described, samples in sorted(tensors):
            digest.update(f"\n{name} {described} ".encode())
            digest.update(samples)
    return f"sha256:{digest.hexdigest()}"


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold what defines the vectors; a directory may have others, of other formats."""
    return [path for path in sorted(folder.glob("*.safetensors")) if path.name.startswith(WEIGHT_FILES)]


def _tensors(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, type with shape, and sampled bytes of each tensor of a safetensors file."""
    tensors = list(stored_tensors(path))
    with path.open("rb") as file:
        for name, dtype, shape, start, stop in tensors:
            places = {start, max(start, (start + stop - SAMPLED_BYTES) // 2), max(start, stop - SAMPLED_BYTES)}
            samples = b""
            for place in sorted(places):
                file.seek(place)
                samples += file.read(min(SAMPLED_BYTES, stop - place))
            yield name, f"{dtype} {shape}", samples
