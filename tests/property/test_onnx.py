"""Whatever texts stand together, in whatever batches, an export gives each the vector that it has alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyserini_llm_sparse import SparseEncoder
from tests.checkpoints import ATTENTIONS
from tests.exports import PRECISIONS, exported

words = st.sampled_from(["wing", "the", "heart", "Köln", "東京", "two words", "2,718", "\t", "zzz", "a quiet doctor"])
texts = st.lists(st.lists(words, max_size=30).map(" ".join) | st.text(max_size=40), min_size=1, max_size=7)


@pytest.mark.parametrize(
    ("attention", "precision"), [(ATTENTIONS[place % 3], precision) for place, precision in enumerate(PRECISIONS)]
)
@settings(max_examples=15)
@given(texts=texts, batch_size=st.integers(1, 7), top_k=st.sampled_from([None, 1, 20]))
def test_a_vector_does_not_depend_on_its_batch(
    attention: str, precision: str, texts: list[str], batch_size: int, top_k: int | None
) -> None:
    folder = exported(f"qwen2_{attention}_tied", precision)
    encoder = SparseEncoder.load(str(folder), document_top_k=top_k)
    together = encoder.encode_documents(texts, batch_size=batch_size).matrix.toarray()
    alone = np.concatenate([encoder.encode_documents([text]).matrix.toarray() for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-4, rtol=0)
