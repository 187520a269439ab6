"""Token ids under the spec: frame, echo, pooled positions, truncation, padding, and texts that are none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.modelling.checkpoint import load_checkpoint
from pyserini_llm_sparse.modelling.names import ModelReference
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from tests.checkpoints import (
    TEXTS,
    TOKENIZERS,
    bert_tokenizer,
    change_json,
    checkpoint,
    copied,
    sentences,
    transformers_tokenizer,
)

BOS, EOS = 0, 1


def tokenization(kind: str = "byte_level", **fields: Any) -> Tokenization:
    fields = {"attention": "causal", "add_bos": kind != "word_piece", **fields}
    return Tokenization(transformers_tokenizer(kind), EncodingSpec(**fields))


def plain_ids(text: str, kind: str = "byte_level") -> list[int]:
    return list(TOKENIZERS[kind]().encode(text, add_special_tokens=False).ids)


def test_a_sequence_is_bos_prefix_text_eos() -> None:
    found = tokenization(add_eos=True, query_prefix="query: ").token_ids(["the wing"], "query")[0]
    assert found.ids == [BOS, *plain_ids("query: the wing"), EOS]
    assert found.pool == range(len(found.ids))


def test_echo_repeats_prefix_and_text_and_pools_the_second_copy() -> None:
    copy = plain_ids("query: the wing")
    found = tokenization(attention="echo", add_eos=True, query_prefix="query: ").token_ids(["the wing"], "query")[0]
    assert found.ids == [BOS, *copy, *copy, EOS]
    assert found.pool == range(1 + len(copy), 2 + 2 * len(copy))


@pytest.mark.parametrize("attention", ["causal", "echo"])
def test_the_span_text_pools_neither_special_tokens_nor_prefix(attention: str) -> None:
    spec = {"attention": attention, "add_eos": True, "document_prefix": "passage:", "pooled_span": "text"}
    found = tokenization(**spec).token_ids([" the wing"], "document")[0]
    assert [found.ids[place] for place in found.pool] == plain_ids(" the wing")
    assert found.pool.stop == len(found.ids) - 1


def test_inference_free_queries_are_the_texts_own_terms() -> None:
    spec = {"query_encoder": "inference-free", "query_prefix": "<|begin|>", "document_prefix": "<|begin|>"}
    both = tokenization(**spec)
    query, document = both.token_ids(["wing"], "query")[0], both.token_ids(["wing"], "document")[0]
    assert [query.ids[place] for place in query.pool] == plain_ids("wing")
    assert document.pool == range(len(document.ids))


@pytest.mark.parametrize("attention", ["causal", "echo"])
def test_the_maximum_length_is_of_one_copy_with_its_special_tokens(attention: str) -> None:
    spec = {"attention": attention, "add_eos": True, "document_max_length": 12}
    ids = tokenization(**spec).token_ids(["the wing of a plane " * 20], "document")[0].ids
    kept = plain_ids("the wing of a plane " * 20)[:10]
    assert ids == [BOS, *kept, *(kept if attention == "echo" else []), EOS]


def test_a_given_maximum_length_comes_before_the_specs() -> None:
    assert len(tokenization().token_ids(["the wing of a plane"], "query", max_length=4)[0].ids) == 4


def test_a_maximum_length_without_room_for_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"leaves no room for a query.*query_max_length"):
        tokenization(query_max_length=2, add_eos=True).token_ids(["wing"], "query")


@pytest.mark.parametrize("text", [None, "", " ", "\n\t\u3000\u2003"])
@pytest.mark.parametrize("prefix", ["", "query: "])
def test_a_text_without_content_has_no_tokens(text: str | None, prefix: str) -> None:
    for span in ("all", "text"):
        found = tokenization(query_prefix=prefix, pooled_span=span).token_ids([text, "wing"], "query")
        assert found[0].ids == []
        assert len(found[0].pool) == 0
        assert found[1].ids


def test_a_text_that_the_normaliser_empties_has_no_tokens() -> None:
    found = tokenization("word_piece", query_prefix="query ").token_ids(["\x00\x01"], "query")
    assert found[0].ids == []


def test_none_is_not_the_word_none() -> None:
    assert tokenization().token_ids(["None"], "query")[0].ids == [BOS, *plain_ids("None")]


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_a_lone_surrogate_is_replaced_and_a_pair_is_joined(kind: str) -> None:
    found = tokenization(kind).token_ids(["a\ud800b", "a\ufffdb", "\ud83d\ude00", "😀"], "document")
    assert found[0] == found[1]
    assert found[2] == found[3]


def test_nul_is_a_character_like_any_other() -> None:
    assert tokenization().token_ids(["a\x00b"], "document")[0].ids == [BOS, *plain_ids("a\x00b")]


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"text 1: not a string but float"):
        tokenization().token_ids(["a", float("nan")], "document")  # type: ignore[list-item]


LONG = " ".join(sentences() * 6)


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@pytest.mark.parametrize("max_length", [8, 700])
@pytest.mark.parametrize(
    "text",
    [LONG, LONG.replace(" ", ""), "東京" * 30_000, " " * 50_000 + LONG, "two words " * 9000, "a" * 60_000],
    ids=["words", "no spaces", "chinese", "blank start", "added tokens", "one letter"],
)
def test_a_long_text_keeps_the_tokens_that_it_has_uncut(kind: str, max_length: int, text: str) -> None:
    own = tokenization(kind, add_bos=False)
    found = own.token_ids([text], "document", max_length=max_length)[0].ids
    assert found == plain_ids(text, kind)[:max_length]
    assert found


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(max_size=60),
    prefix=st.sampled_from(["", "query: ", "<|begin|>"]),
    attention=st.sampled_from(["causal", "echo"]),
    span=st.sampled_from(["all", "text"]),
    max_length=st.integers(20, 40),
)
def test_any_text_fits_and_is_pooled_inside(text: str, prefix: str, attention: str, span: str, max_length: int) -> None:
    own = tokenization(attention=attention, query_prefix=prefix, pooled_span=span, query_max_length=max_length)
    ids, pool = own.token_ids([text], "query")[0]
    assert len(ids) <= max_length * (2 if attention == "echo" else 1)
    assert 0 <= pool.start <= pool.stop <= len(ids)
    assert bool(ids) == bool(pool)


def test_padding_marks_tokens_and_pooled_positions_on_either_side() -> None:
    own = tokenization(attention="echo")
    texts = own.token_ids(["wing", "the wing of a plane", None], "document")
    for side in ("left", "right"):
        batch = own.batch(texts, side)
        for row, (ids, pool) in enumerate(texts):
            assert batch.input_ids[row][batch.attention_mask[row].bool()].tolist() == ids
            assert batch.input_ids[row][batch.pool_mask[row].bool()].tolist() == ids[pool.start : pool.stop]
            changes = sum(int(a != b) for a, b in pairwise(batch.attention_mask[row].tolist()))
            assert changes <= 1
    assert batch.attention_mask[:, -1].tolist() == [0, 1, 0]
    assert own.batch([]).input_ids.shape == (0, 0)


def test_a_bos_that_the_tokenizer_lacks_is_refused() -> None:
    with pytest.raises(DataError, match=r"no BOS token; set add_bos=false"):
        tokenization("word_piece", add_bos=True)


def test_special_tokens_beyond_the_models_vocabulary_are_dropped_from_texts() -> None:
    tokenizer = transformers_tokenizer()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    own = Tokenization(tokenizer, EncodingSpec(attention="causal"), vocabulary_size=size)
    assert own.token_ids(["wing<|extra|>"], "query")[0].ids == [BOS, *plain_ids("wing")]
    assert own.token_ids(["<|extra|>"], "query")[0].ids == []
    assert own.tokenizer.tokens(size)[0] == "<|begin|>"


def test_ordinary_tokens_beyond_the_models_vocabulary_are_refused() -> None:
    own = TextTokenizer.from_any(transformers_tokenizer())
    with pytest.raises(DataError, match="do not belong together"):
        own.tokens(100)
    assert own.tokens(1000)[-1] is None


def test_a_folder_gives_the_tokenizer_that_transformers_has() -> None:
    own, theirs = TextTokenizer.from_folder(checkpoint("without_spec")), transformers_tokenizer()
    assert (own.bos_id, own.eos_id, own.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert own.special_ids() == (0, 1, 2)
    for sentence in sentences()[:20]:
        assert own.backend.encode(sentence).ids == theirs(sentence, add_special_tokens=False)["input_ids"]


def test_a_template_frames_texts_where_no_bos_is_named(tmp_path: Path) -> None:
    """As BERT's files have it, whose configuration names neither BOS nor EOS."""
    bert_tokenizer().save_pretrained(tmp_path)
    plain = TextTokenizer.from_folder(tmp_path)
    assert (plain.bos_id, plain.eos_id) == (None, None)
    framed = plain.framed_by_template()
    spec = EncodingSpec(attention="bidirectional", add_bos=True, add_eos=True)
    for text in TEXTS:
        ids, pooled = Tokenization(framed, spec).token_ids([text], "document")[0]
        assert ids == bert_tokenizer()(text)["input_ids"] and pooled == range(len(ids))
    unframed = TextTokenizer.from_any(transformers_tokenizer("word_piece")).framed_by_template()
    assert (unframed.bos_id, unframed.eos_id) == (None, None)


def test_a_template_with_several_tokens_on_a_side_is_refused() -> None:
    tokenizer = bert_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] [MASK] $A", special_tokens=[("[CLS]", 2), ("[MASK]", 4)]
    )
    with pytest.raises(DataError, match="puts 2 tokens before a text and 0 after it"):
        TextTokenizer.from_any(tokenizer).framed_by_template()


def test_of_a_causal_model_the_template_is_not_asked(tmp_path: Path) -> None:
    """Llama's adds a BOS; that of a spec without one must not come back through it."""
    folder = copied("without_spec", tmp_path / "model")
    before = load_checkpoint(ModelReference(str(folder), {"attention": "causal", "add_eos": "true"}))
    tokenizer = transformers_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", 2)]
    )
    tokenizer.save_pretrained(folder)
    after = load_checkpoint(ModelReference(str(folder), {"attention": "causal", "add_eos": "true"}))
    assert (after.tokenizer.bos_id, after.tokenizer.eos_id) == (0, 1)
    sequences = [Tokenization(found.tokenizer, found.spec).token_ids(TEXTS, "query") for found in (before, after)]
    assert sequences[0] == sequences[1]


def test_a_tokenizer_configuration_without_bos_means_no_bos(tmp_path: Path) -> None:
    """Qwen: config.json names a BOS id that the model was not trained with."""
    folder = copied("without_spec", tmp_path / "model")
    change_json(folder / "tokenizer_config.json", bos_token=None)
    assert TextTokenizer.from_folder(folder).bos_id is None


def test_a_saved_truncation_is_not_applied(tmp_path: Path) -> None:
    folder = copied("without_spec", tmp_path / "model")
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    change_json(folder / "tokenizer.json", truncation=truncation)
    own = Tokenization(TextTokenizer.from_folder(folder), EncodingSpec(attention="causal"))
    assert len(own.token_ids(["the wing of a plane far away"], "query")[0].ids) > 4


def test_a_word_piece_vocabulary_is_converted(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wing", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert TextTokenizer.from_folder(tmp_path).backend.encode("wings", add_special_tokens=False).ids == [5, 6]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"no tokenizer: .*tokenizer=PATH"):
        TextTokenizer.from_folder(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer"):
        TextTokenizer.from_folder(tmp_path)
