"""Statistics of the training documents: where the table of inference-free queries starts, and BM25's part.

A query's term counts as often as it occurs, and BM25 would weight it by its IDF. A document's weight for a term that it
has is learnt; giving both sides the square root, ``sqrt(.3 IDF)``, lets both move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyserini_llm_sparse.modelling.tokenization import Tokenization

IDF_FACTOR = 0.3
TEXTS_AT_A_TIME = 1024


@dataclass(frozen=True)
class TermStatistics:
    """Statistics of the training documents.

    Attributes:
        weights: ``sqrt(.3 IDF)`` of each term, float32 ``[vocabulary]``, IDF as in BM25 (Robertson and Zaragoza, 2009,
            section 3.3); a term of no document has the weight of one that occurs in a single document.
        mean_length: Mean number of pooled tokens of a document.
    """

    weights: Tensor
    mean_length: float


def term_statistics(
    documents: Iterable[str],
    tokenization: Tokenization,
    vocabulary_size: int,
    terms_of: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda ids: ids,
) -> TermStatistics:
    """Count terms and documents.

    Args:
        documents: The training documents, each once.
        tokenization: Tokenises them as documents are; prefix and special tokens count as well, and get next to nothing.
        vocabulary_size: Number of ids.
        terms_of: Returns the ids that stand for the terms of tokens; see `Checkpoint.terms_of`.
    """
    frequency = np.zeros(vocabulary_size, dtype=np.int64)
    count = tokens = 0
    remaining = iter(documents)
    while texts := list(islice(remaining, TEXTS_AT_A_TIME)):
        for text in tokenization.token_ids(texts, "document"):
            frequency[np.unique(terms_of(np.array(text.ids, dtype=np.int64)))] += 1
            tokens += len(text.pool)
        count += len(texts)
    seen = np.maximum(frequency, 1)
    idf = np.log1p((count - seen + 0.5) / (seen + 0.5))
    return TermStatistics(torch.from_numpy(np.sqrt(IDF_FACTOR * idf)).float(), max(tokens, 1) / max(count, 1))
