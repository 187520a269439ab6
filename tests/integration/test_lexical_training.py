"""Own terms held near BM25's weights, in a run: they get there, also where a model gives them none at first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.run import retrieve
from tests.checkpoints import checkpoint, sentences


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    texts = list(dict.fromkeys(sentences()))
    path.write_text("".join(json.dumps({"query": text[4:20], "positive": text}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize("fields", [{}, {"gradient_cache_size": 4, "term_folding": "surface", "attention": "echo"}])
def test_own_terms_come_closer_to_bm25_s_weights(pairs: Path, tmp_path: Path, fields: dict[str, object]) -> None:
    given = {
        "model": str(checkpoint("llama_causal")), "train": (str(pairs),), "output": tmp_path / "result",
        "attention": "causal", "query_encoder": "inference-free", "contrastive_weight": 0.01, "lexical_weight": 1.0,
        "regularised_terms": "expansions", "document_regulariser_weight": 0.1, "regulariser_ramp": 0.0,
        "excluded_token_ids": (0, 1, 2),
        "trainer": {
            "use_cpu": True, "max_steps": 40, "per_device_train_batch_size": 8, "learning_rate": 0.01,
            "logging_steps": 1,
        },
    }  # fmt: skip
    config = RetrieveConfig(**{**given, **fields})
    retrieve(config)
    lines = (tmp_path / "result" / "training" / "metrics.jsonl").read_text().splitlines()
    errors = [found["lexical"] for line in lines if "lexical" in (found := json.loads(line))]
    assert len(errors) == 40
    assert np.mean(errors[-5:]) < 0.5 * errors[0]


def test_a_stream_has_no_statistics(pairs: Path, tmp_path: Path) -> None:
    config = RetrieveConfig(
        model=str(checkpoint("llama_causal")), train=(str(pairs),), output=tmp_path / "result", streaming=True,
        lexical_weight=1.0, trainer={"use_cpu": True, "max_steps": 2},
    )  # fmt: skip
    with pytest.raises(UsageError, match="lexical_weight"):
        retrieve(config)
