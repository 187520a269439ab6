"""One term for several tokens: which are folded, what the term is called, and that every way gives one vector."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.modelling.backbone.head import fold_terms
from pyserini_llm_sparse.modelling.folding import Folding, fold_surfaces
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from tests.checkpoints import TEXTS, TOKENIZERS, checkpoint
from tests.exports import exported, torch_encoder


def folded(kind: str, *left_out: str) -> tuple[Folding, dict[str, int]]:
    tokenizer = TextTokenizer.from_any(TOKENIZERS[kind]())
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    tokens = tokenizer.tokens(len(ids))
    return fold_surfaces(tokenizer, tokens, np.array([token not in left_out for token in tokens])), ids


@pytest.mark.parametrize(("kind", "spellings"), [("byte_level", ("Ġl", "L", "l")), ("metaspace", ("▁a", "a"))])
def test_case_and_leading_space_make_no_difference(kind: str, spellings: tuple[str, ...]) -> None:
    folding, ids = folded(kind)
    standing, *others = sorted(ids[name] for name in spellings)
    assert {int(folding.term_of[ids[name]]) for name in spellings} == {standing}
    assert folding.names[standing] == spellings[1].lower()
    assert {folding.names[number] for number in others} == {None}


def test_white_space_bytes_and_special_tokens_stay_apart() -> None:
    folding, ids = folded("byte_level")
    for name in ("<|begin|>", "two words", "\t\t", "Ġ", "Ċ", "é", "æ"):  # the last two are single bytes
        assert folding.term_of[ids[name]] == ids[name]
        assert folding.names[ids[name]] == name


def test_a_token_that_is_left_out_counts_for_no_term() -> None:
    folding, ids = folded("byte_level", "a")
    assert folding.names[ids["a"]] is None
    assert folding.names[ids["A"]] == "a"
    assert folding.term_of[ids["Ġa"]] == ids["A"]


def test_every_term_has_one_name() -> None:
    folding, _ = folded("byte_level")
    names = [name for name in folding.names if name is not None]
    assert len(names) == len(set(names)) == folding.stands.sum() < len(folding.names)
    assert folding.stands[folding.term_of].all()


def test_a_table_keeps_the_largest_weight_of_a_term() -> None:
    folding = Folding(np.array([0, 0, 2, 3]), ["a", None, None, "b"])
    assert folding.of_table(np.array([1, 5, 7, 2], np.float32)).tolist() == [5, 0, 0, 2]


def test_the_gradient_goes_to_the_token_that_won() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 4.0]], requires_grad=True)
    allowed = torch.tensor([True, True, True, False])
    found = fold_terms(logits, allowed, torch.tensor([0, 0, 2, 3]))
    assert found.tolist() == [[3.0, -torch.inf, 2.0, -torch.inf]]
    (found[0, 0] * 2 + found[0, 2]).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 2.0, 1.0, 0.0]]


@pytest.mark.parametrize("top_k", [None, 20])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("int8", 0.5)])
def test_an_export_folds_as_torch_does(precision: str, bound: float, top_k: int | None) -> None:
    wanted = torch_encoder("folded", document_top_k=top_k).encode_documents(TEXTS).matrix.toarray()
    export = SparseEncoder.load(str(exported("folded", precision)), document_top_k=top_k)
    found = export.encode_documents(TEXTS).matrix.toarray()
    both = (wanted > 0) & (found > 0)
    assert both.sum() >= 0.9 * (wanted > 0).sum() > 0
    np.testing.assert_allclose(found[both], wanted[both], atol=bound, rtol=0)
    assert export.checkpoint.folding is not None
    assert not found[:, ~export.checkpoint.folding.stands].any()


def test_an_export_cannot_change_its_folding() -> None:
    with pytest.raises(UsageError, match="term_folding"):
        SparseEncoder.load(f"csplade:{exported('llama_causal', 'fp32')},term_folding=surface")


def test_queries_of_a_table_meet_documents_in_any_case() -> None:
    plain, folding = (
        SparseEncoder.load(f"csplade:{checkpoint('inference_free')}{fields}")
        for fields in ("", ",term_folding=surface")
    )
    one, other = folding.encode_queries(["b", "B"]).matrix.toarray()
    assert one.tolist() == other.tolist()
    one, other = plain.encode_queries(["b", "B"]).matrix.toarray()
    assert one.tolist() != other.tolist()


def test_a_text_s_own_terms_are_known_whatever_their_case() -> None:
    encoder = SparseEncoder.load(f"csplade:{checkpoint('inference_free')},term_folding=surface")
    assert all(one.own for one in encoder.term_impacts("B b and the WIND", "query"))
