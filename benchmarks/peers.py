"""What our encoder is measured against: the same documents in other libraries' hands, on models of equal size.

Each function loads a peer and returns what encodes documents to lines of JSON, corpus order and batches included.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from random_models import LENGTH, random_bert

BATCH = 32

Encode = Callable[[list[str]], Any]


def loop(model: str, threads: int, device: str = "cpu", dtype: str = "float32") -> Encode:
    """Load the straightforward loop over transformers, as published code has it, with the same weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pyserini_llm_sparse import SparseEncoder
    from pyserini_llm_sparse.modelling.backbone.language_model import set_attention

    torch.set_num_threads(threads)
    checkpoint = SparseEncoder.load(model).checkpoint
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    network = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=getattr(torch, dtype)).eval().to(device)
    set_attention(network, checkpoint.spec.attention)
    terms = {number: token for token, number in tokenizer.get_vocab().items()}

    @torch.inference_mode()
    def encode(texts: list[str]) -> list[str]:
        written = []
        for start in range(0, len(texts), BATCH):
            with_bos = [f"{tokenizer.bos_token}{text}" for text in texts[start : start + BATCH]]
            inputs = tokenizer(
                with_bos,
                padding=True,
                truncation=True,
                max_length=LENGTH,
                add_special_tokens=False,
                return_tensors="pt",
                return_token_type_ids=False,
            ).to(device)
            logits = network(**inputs).logits
            weights = (torch.log1p(torch.relu(logits)) * inputs["attention_mask"][:, :, None]).amax(1)
            for row in weights.float().cpu().numpy():
                vector = {terms[term]: round(float(weight) * 100) for term, weight in enumerate(row) if weight > 0}
                written.append(json.dumps(vector))
        return written

    return encode


def sentence_transformers_encoder(model: str, threads: int, device: str = "cpu") -> Any:
    """Load sentence-transformers' SparseEncoder over the same weights: the head as a Dense module, SpladePooling.

    Its attention is causal, which costs the same.
    """
    import torch
    from sentence_transformers import SparseEncoder as Theirs
    from sentence_transformers.sentence_transformer.modules import Dense, Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from transformers import AutoModelForCausalLM

    from pyserini_llm_sparse import SparseEncoder

    torch.set_num_threads(threads)
    folder = str(SparseEncoder.load(model).checkpoint.folder)
    head = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).lm_head
    dense = Dense(
        head.in_features,
        head.out_features,
        bias=False,
        activation_function=torch.nn.Identity(),
        init_weight=head.weight.detach(),
        module_input_name="token_embeddings",
        module_output_name="token_embeddings",
    )
    return Theirs(modules=[Transformer(folder, max_seq_length=LENGTH), dense, SpladePooling("max")], device=device)


def sentence_transformers(model: str, threads: int) -> Encode:
    """Load sentence-transformers' SparseEncoder for documents."""
    encoder = sentence_transformers_encoder(model, threads)

    def encode(texts: list[str]) -> list[str]:
        vectors = encoder.encode(texts, batch_size=BATCH, show_progress_bar=False)
        return [json.dumps(dict(row)) for row in encoder.decode(vectors)]

    return encode


def pyserini_splade(model: str, threads: int) -> Encode:
    """Load Pyserini's own document encoder on a random BERT of the same width, depth and vocabulary."""
    import torch
    from pyserini.encode import SpladeDocumentEncoder

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        random_bert(Path(folder), model)
        encoder = SpladeDocumentEncoder(folder, device="cpu")

    def encode(texts: list[str]) -> list[str]:
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return [json.dumps(vector) for batch in batches for vector in encoder.encode(batch, max_length=LENGTH)]

    return encode
