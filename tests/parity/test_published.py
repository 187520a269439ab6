"""Published checkpoints give the numbers that their authors print; skipped where the hub's cache lacks them."""

from __future__ import annotations

import numpy as np
import pytest

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import ResourceError


def test_lion_gives_the_scores_of_its_readme() -> None:
    try:
        encoder = SparseEncoder.load("hzeng/Lion-SP-1B-llama3-marco-mntp", dtype="float32")
    except ResourceError as error:
        pytest.skip(f"the published golden case was not run: {error}")
    queries = encoder.encode_queries(["What is the capital of France?", "Who wrote '1984'?"])
    documents = encoder.encode_documents(["Paris is the capital of France.", "George Orwell wrote '1984'."])
    expected = [[14.8352, 0.0264], [0.00547, 13.9098]]  # printed there in bfloat16
    np.testing.assert_allclose(queries.dot(documents), expected, rtol=0.02, atol=0.02)
