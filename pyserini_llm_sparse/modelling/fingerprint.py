"""The fingerprint that names a model's weights, configuration and tokenizer in the encoding spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from pyserini_llm_sparse.files.settings import read_json
from pyserini_llm_sparse.modelling.model_settings import model_settings
from pyserini_llm_sparse.modelling.tensors import stored_tensors
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer

WEIGHT_FILES = ("model", "adapter_model", "query_term_weights", "head_shift")
SAMPLED_BYTES = 1024
SAMPLES = 64  # of each tensor of a large model
WHOLE_BYTES = 2**26


def fingerprint(folder: str | Path, tokenizer: TextTokenizer, base: str | Path | None = None) -> str:
    """Name a model: `weights_fingerprint`, a plus sign and a digest over what that leaves out.

    That is what ``config.json`` and ``adapter_config.json`` say of the vectors, and the weights: all of a model of at
    most `WHOLE_BYTES`, of a larger one `SAMPLES` places of each tensor. The first part alone is how version 0.1 named a
    model; `spec.same_model` knows both.

    Raises:
        DataError: A safetensors file is damaged, or a configuration is not a JSON object.
        ResourceError: A file cannot be read.
    """
    places = [Path(place) for place in (folder, *([base] if base else []))]
    stored = [(path, tensor) for place in places for path in _weight_files(place) for tensor in stored_tensors(path)]
    whole = sum(tensor.stop - tensor.start for _, tensor in stored) <= WHOLE_BYTES
    digest = hashlib.sha256()
    for place in places:
        for name in ("config.json", "adapter_config.json"):
            settings = model_settings(read_json(place / name) or {})
            digest.update(json.dumps([name, settings], sort_keys=True).encode())
    for path, tensor in sorted(stored, key=lambda one: (places.index(one[0].parent), one[1].name)):
        digest.update(tensor.name.encode())
        with path.open("rb") as file:
            length = tensor.stop - tensor.start
            for start in [0] if whole else [length * number // SAMPLES for number in range(SAMPLES)]:
                file.seek(tensor.start + start)
                digest.update(file.read(length if whole else min(SAMPLED_BYTES, length - start)))
    return f"{weights_fingerprint(folder, tokenizer, base)}+{digest.hexdigest()[:32]}"


def tokenizer_content(tokenizer: TextTokenizer) -> bytes:
    """Return all that decides about a tokenizer's ids: canonical JSON, without truncation and padding."""
    content = json.loads(tokenizer.backend.to_str())
    content.pop("truncation", None)
    content.pop("padding", None)
    content["special"] = [tokenizer.bos_id, tokenizer.eos_id]
    if tokenizer.backend.encode_special_tokens:
        content["split_special_tokens"] = True
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def weights_fingerprint(folder: str | Path, tokenizer: TextTokenizer, base: str | Path | None = None) -> str:
    """Name a model's weights and tokenizer: ``sha256:`` and a digest, without reading all of 8 B parameters.

    It covers the tokenizer (canonical JSON without truncation and padding, and the ids of BOS and EOS), and of each
    tensor of the model, the adapter, its base and the query term weights the name, type and shape and the first,
    middle and last KiB. How tensors are spread over files does not matter.

    Raises:
        DataError: A safetensors file is damaged.
    """
    digest = hashlib.sha256(tokenizer_content(tokenizer))
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
