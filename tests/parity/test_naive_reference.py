"""The encoder equals the formula written down naively in float64: one text at a time, all logits, no tricks.

Nothing of the package is used on the reference's side but the spec: the sequence is put together here from the
tokenizer's own calls, the attention mask is built by hand, and the logits are the model's own.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from pyserini_llm_sparse.encoder import SparseEncoder
from tests.checkpoints import ATTENTIONS, FAMILIES, TEXTS, checkpoint

TOLERANCE = 1e-5


class Reference:
    """The naive encoder."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.spec = {**json.loads((folder / "encoding_spec.json").read_text()), **changes}
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        )
        self.model.config.is_causal = True  # the four-dimensional mask below says all about attention

    def sequence(self, text: str, prefix: str, max_length: int) -> tuple[list[int], list[int]]:
        """Return the ids and the pooled positions."""
        before = [self.tokenizer.bos_token_id] if self.spec["add_bos"] else []
        after = [self.tokenizer.eos_token_id] if self.spec["add_eos"] else []
        form = self.spec.get("text_normalisation", "none")
        if form != "none":
            text = unicodedata.normalize("NFKC", text)
        text = text.lower() if form == "lowercase" else text
        copy = self.tokenizer(prefix + text, add_special_tokens=False)["input_ids"]
        copy = copy[: max_length - len(before) - len(after)]
        in_prefix = len(self.tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0
        twice = self.spec["attention"] == "echo"
        ids = before + copy + (copy if twice else []) + after
        first = len(before) + (len(copy) if twice else 0)
        if self.spec["pooled_span"] == "text":
            return ids, list(range(first + in_prefix, first + len(copy)))
        return ids, list(range(first if twice else 0, len(ids)))

    @torch.no_grad()
    def weights(self, text: str, side: str) -> np.ndarray:
        """Return float64 weights ``[vocabulary]``."""
        ids, pooled = self.sequence(text, self.spec[f"{side}_prefix"], self.spec[f"{side}_max_length"])
        length = len(ids)
        allowed = torch.ones(length, length, dtype=torch.bool)
        if self.spec["attention"] != "bidirectional":
            allowed = allowed.tril()
        mask = torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(~allowed, torch.finfo().min)
        logits = self.model(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0]
        largest = logits[pooled].max(dim=0).values * self.spec["logit_scale"]
        result = torch.log1p(torch.relu(largest)).numpy()
        result[self.spec["excluded_token_ids"]] = 0
        result[len(self.tokenizer) :] = 0
        return result if self.spec.get("term_folding", "none") == "none" else self.folded(result)

    def folded(self, weights: np.ndarray) -> np.ndarray:
        """Return the largest weight of the tokens that are one word, at the first of them; 0 at the others."""
        excluded = {*self.spec["excluded_token_ids"], *self.tokenizer.all_special_ids}
        excluded |= set(self.tokenizer.get_added_vocab().values())
        words: dict[str, list[int]] = {}
        for number in range(len(self.tokenizer)):
            text = self.tokenizer.backend_tokenizer.decode([number], skip_special_tokens=False).replace("▁", " ")
            word = unicodedata.normalize("NFKC", text).lower().strip()
            own = number in excluded or "\ufffd" in text or not word
            words.setdefault(f"<{number}>" if own else word, []).append(number)
        result = np.zeros_like(weights)
        for numbers in words.values():
            result[numbers[0]] = weights[numbers].max()
        return result


def assert_parity(folder: Path, pad_side: str = "right", batch_size: int = 5, **changes: object) -> None:
    encoder, reference = SparseEncoder.load(str(folder), dtype="float32", device="cpu", **changes), None
    encoder.engine.pad_side = pad_side  # type: ignore[attr-defined]
    reference = Reference(folder, **changes)
    for side, encode in (("query", encoder.encode_queries), ("document", encoder.encode_documents)):
        ours = encode(TEXTS, batch_size=batch_size).matrix.toarray()
        naive = np.stack([reference.weights(text, side) for text in TEXTS])
        assert (naive > 0).any(axis=1).all(), "an empty reference proves nothing"
        assert (naive == 0).any(axis=1).all()
        np.testing.assert_allclose(ours, naive, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("pad_side", ["left", "right"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_and_padded_equals_the_formula(family: str, attention: str, pad_side: str) -> None:
    assert_parity(checkpoint(f"{family}_{attention}"), pad_side)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("span", ["all", "text"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_prefixes_special_tokens_and_scale_as_the_spec_says(family: str, attention: str, span: str) -> None:
    assert_parity(
        checkpoint(f"{family}_{attention}"),
        add_eos=True,
        query_prefix="query:",
        document_prefix="passage:",
        pooled_span=span,
        logit_scale=48**-0.25,
        excluded_token_ids=[0, 1, 2, 300],
    )


@pytest.mark.parametrize("name", ["llama_echo", "mistral_bidirectional", "spare_ids"])
def test_folded_terms_and_normalised_texts(name: str) -> None:
    folder = checkpoint(name)
    assert_parity(folder, term_folding="surface", text_normalisation="lowercase", document_prefix="Passage:")
    assert_parity(folder, term_folding="surface", excluded_token_ids=[300, 301], text_normalisation="nfkc")


def test_without_bos() -> None:
    assert_parity(checkpoint("llama_echo"), add_bos=False)


def test_ids_without_a_token_have_no_weight() -> None:
    folder = checkpoint("spare_ids")
    tokens = len(PreTrainedTokenizerFast.from_pretrained(folder))
    vectors = SparseEncoder.load(str(folder)).encode_documents(TEXTS)
    assert vectors.vocabulary_size == tokens + 40
    assert vectors.matrix.indices.max() < tokens
    assert_parity(folder)


@pytest.mark.parametrize("pad_side", ["left", "right"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_vector_does_not_depend_on_its_neighbours(attention: str, pad_side: str) -> None:
    encoder = SparseEncoder.load(str(checkpoint(f"llama_{attention}")))
    encoder.engine.pad_side = pad_side  # type: ignore[attr-defined]
    together = encoder.encode_documents(TEXTS, batch_size=5).matrix.toarray()
    alone = np.concatenate([encoder.encode_documents([text]).matrix.toarray() for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=TOLERANCE, rtol=0)


def test_an_adapter_is_merged_as_the_formula_adds_it() -> None:
    """``W + alpha/r * B @ A``, written out from the adapter's file in float64."""
    folder = checkpoint("adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    stored = {name: tensor.double() for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    reference = Reference.__new__(Reference)
    reference.spec = json.loads((folder / "encoding_spec.json").read_text())
    base = checkpoint("without_spec")
    reference.tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    reference.model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64, attn_implementation="eager")
    for name, parameter in reference.model.named_parameters():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in stored:
            update = stored[f"{key}.lora_B.weight"] @ stored[f"{key}.lora_A.weight"]
            parameter.data += settings["lora_alpha"] / settings["r"] * update
    ours = SparseEncoder.load(str(folder)).encode_documents(TEXTS).matrix.toarray()
    naive = np.stack([reference.weights(text, "document") for text in TEXTS])
    np.testing.assert_allclose(ours, naive, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_the_formula(dtype: str) -> None:
    folder = checkpoint("llama_bidirectional")
    ours = SparseEncoder.load(str(folder), dtype=dtype).encode_documents(TEXTS).matrix.toarray()
    reference = Reference(folder)
    naive = np.stack([reference.weights(text, "document") for text in TEXTS])
    cosine = (ours * naive).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(naive, axis=1)
    assert cosine.min() > 0.99
