"""The settings of a tokenizer that lie outside ``tokenizer.json``, and whether they say the same as that file.

transformers reads both, and the other files win. A directory in which they agree can be read without transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.settings import read_json

CONFIG_FILE = "tokenizer_config.json"
_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTED = ("additional_special_tokens", "extra_special_tokens")
_TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
# What BERT's tokenizers call a part of their normaliser in tokenizer.json, with the value that is meant if none is set.
_BERT = {"do_lower_case": ("lowercase", True), "strip_accents": ("strip_accents", None)}
_BERT |= {"tokenize_chinese_chars": ("handle_chinese_chars", True)}
_BERT_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer")
_BERT_TYPES = ("bert", "distilbert", "electra", "mpnet")


def differing_settings(folder: Path, backend: Tokenizer) -> list[str]:
    """Return each setting of a directory that says something else than its ``tokenizer.json``, as ``file: setting``.

    Args:
        folder: The directory.
        backend: What its ``tokenizer.json`` holds.

    Raises:
        DataError: A file is not a JSON object, or a token in it is none.
    """
    config = read_json(folder / CONFIG_FILE) or {}
    content = json.loads(backend.to_str())
    parts = [*_parts(content.get("normalizer")), *_parts(content.get("pre_tokenizer"))]
    found = [*_of_case(folder, config, parts), *_of_prefix_space(config, parts)]
    if config.get("split_special_tokens"):
        found.append(f"{CONFIG_FILE}: split_special_tokens")
    return [*found, *_of_tokens(folder, config, backend)]


def _of_case(folder: Path, config: dict[str, Any], parts: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what differs of lower case, accents and Chinese characters."""
    of_bert = [part for part in parts if part["type"] == "BertNormalizer"]
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    is_bert = name in _BERT_CLASSES
    if not name:
        is_bert = (read_json(folder / "config.json") or {}).get("model_type") in _BERT_TYPES
    for setting, (part_name, default) in _BERT.items():
        if setting not in config and not is_bert:
            continue
        wanted = config.get(setting, default)
        if any(part.get(part_name) != wanted for part in of_bert):
            yield f"{CONFIG_FILE}: {setting}={wanted}" if setting in config else f"{name or 'BERT'}: {setting}={wanted}"
    if config.get("do_lower_case") and not of_bert and not any(part["type"] == "Lowercase" for part in parts):
        yield f"{CONFIG_FILE}: do_lower_case=True"


def _of_prefix_space(config: dict[str, Any], parts: list[dict[str, Any]]) -> Iterator[str]:
    """Yield it if a space is, or is not, put before a text."""
    wanted = config.get("add_prefix_space")
    if not isinstance(wanted, bool):
        return
    said = [part["add_prefix_space"] for part in parts if part["type"] == "ByteLevel"]
    said += [part.get("prepend_scheme", "always") != "never" for part in parts if part["type"] == "Metaspace"]
    said += [True for part in parts if part["type"] == "Prepend"]
    if said and any(said) != wanted:
        yield f"{CONFIG_FILE}: add_prefix_space={wanted}"


def _of_tokens(folder: Path, config: dict[str, Any], backend: Tokenizer) -> Iterator[str]:
    """Yield each token that is named or added outside, and that the tokenizer does not have, or has otherwise."""
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    seen = set()
    for file, setting, token in _tokens(folder, config):
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str):
            raise DataError(f"{folder / file}: {setting}: not a token: {token!r}; correct the file")
        flags = token if isinstance(token, dict) and setting == "added_tokens_decoder" else {}
        known = added.get(text)
        same = known is not None and all(
            bool(flags[flag]) == getattr(known, flag) for flag in _TOKEN_FLAGS if flag in flags
        )
        if not (same if flags else backend.token_to_id(text) is not None) and text not in seen:
            seen.add(text)
            yield f"{file}: {setting} {text!r}"


def _tokens(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield file, setting and token, wherever a directory names or adds one."""
    special = read_json(folder / "special_tokens_map.json") or {}
    for file, content in ((CONFIG_FILE, config), ("special_tokens_map.json", special)):
        for setting in (*_NAMED, *_LISTED):
            value = content.get(setting)
            values = list(value.values()) if setting in _LISTED and isinstance(value, dict) else value
            for token in values if isinstance(values, list) else [values]:
                if token is not None:
                    yield file, setting, token
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise DataError(f"{folder / CONFIG_FILE}: added_tokens_decoder: not an object; correct the file")
    yield from ((CONFIG_FILE, "added_tokens_decoder", token) for token in decoder.values())
    if "added_tokens_decoder" not in config:  # which replaced it
        yield from (("added_tokens.json", "token", token) for token in read_json(folder / "added_tokens.json") or {})


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of a normaliser or pre-tokeniser, those of sequences one by one."""
    if not isinstance(part, dict):
        return
    inner = part.get("normalizers") or part.get("pretokenizers")
    if inner is None:
        yield part
        return
    for one in inner:
        yield from _parts(one)
