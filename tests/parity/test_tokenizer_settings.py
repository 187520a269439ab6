"""A tokenizer's settings outside tokenizer.json: over a matrix of them, what transformers makes of the directory."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from tests.checkpoints import bert_tokenizer, change_json, copied, transformers_tokenizer

TEXTS = ("The CAT Sleeps in Köln", "  two words <|x|> [SEP] [X] <|end|>ly 東京")
X = {"content": "[X]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": False}
END = {**X, "content": "<|end|>", "rstrip": True, "special": True}
BERT = {
    f"{kind}-{said}-{written}": ({"tokenizer_class": kind, "do_lower_case": said}, {"lowercase": written})
    for kind, said, written in itertools.product(
        ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "PreTrainedTokenizerFast"),
        (True, False, None),
        (True, False),
    )
} | {
    "accents": ({"tokenizer_class": "BertTokenizer", "strip_accents": False}, {}),
    "chinese": ({"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False}, {}),
}
PREFIX = {
    f"{kind}-{said}-{written}": ({"tokenizer_class": kind, "add_prefix_space": said}, written)
    for kind, said, written in itertools.product(
        ("PreTrainedTokenizerFast", "GPT2Tokenizer", "RobertaTokenizer"), (True, False), (True, False)
    )
}
TOKENS: dict[str, dict[str, dict[str, Any]]] = {
    "pad": {"tokenizer_config.json": {"pad_token": "[MYPAD]"}},
    "eos": {"tokenizer_config.json": {"eos_token": "<|x|>"}, "added_tokens.json": {"<|x|>": 600, "[X]": 601}},
    "additional": {"tokenizer_config.json": {"additional_special_tokens": ["<|x|>"]}},
    "extra": {"tokenizer_config.json": {"extra_special_tokens": {"image": "<|x|>"}}},
    "map": {"special_tokens_map.json": {"eos_token": "<|x|>"}},
    "split": {"tokenizer_config.json": {"split_special_tokens": True}},
    "decoder": {"tokenizer_config.json": {"added_tokens_decoder": {"900": X}}},
    "flags": {"tokenizer_config.json": {"added_tokens_decoder": {"1": END}}},
}


def written(folder: Path, make: Callable[[], Any], files: dict[str, dict[str, Any]]) -> Path:
    make().save_pretrained(folder)
    for name, changes in files.items():
        if not (folder / name).is_file():
            (folder / name).write_text("{}", encoding="utf-8")
        change_json(folder / name, **changes)
    return folder


def assert_as_transformers(folder: Path) -> None:
    ours, theirs = TextTokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.backend.encode(text, add_special_tokens=False).ids == ids
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.mark.parametrize("name", BERT)
def test_case_and_accents_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    settings, normalizer = BERT[name]
    folder = written(tmp_path, bert_tokenizer, {"tokenizer_config.json": settings})
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"].update(normalizer)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert_as_transformers(folder)


@pytest.mark.parametrize("name", PREFIX)
def test_the_space_before_a_text_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    settings, space = PREFIX[name]
    folder = written(tmp_path, transformers_tokenizer, {"tokenizer_config.json": settings})
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["pre_tokenizer"]["add_prefix_space"] = space
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert_as_transformers(folder)


@pytest.mark.parametrize("name", TOKENS)
def test_added_tokens_are_those_of_transformers(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert_as_transformers(written(tmp_path, transformers_tokenizer, TOKENS[name]))
    assert "read as transformers does" in caplog.text


def test_a_model_whose_tokens_go_beyond_its_vocabulary_encodes_without_them(tmp_path: Path) -> None:
    from pyserini_llm_sparse.encoder import SparseEncoder

    plain = copied("without_spec", tmp_path / "plain")
    grown = copied("without_spec", tmp_path / "grown")
    change_json(grown / "tokenizer_config.json", pad_token="[MYPAD]", eos_token="<|im_end|>")
    (grown / "added_tokens.json").write_text('{"<|im_start|>": 422, "<|im_end|>": 423}', encoding="utf-8")
    expected, found = (
        SparseEncoder.load(str(folder), attention="causal", device="cpu").document_impacts(["a plane", text])
        for folder, text in ((plain, "a wing"), (grown, "<|im_start|>a wing"))
    )
    assert found == expected


def test_a_tokenizer_whose_settings_agree_is_read_without_transformers() -> None:
    code = (
        "import sys; from pyserini_llm_sparse.encoder import SparseEncoder; SparseEncoder.load(); "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
