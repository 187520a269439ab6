"""Trains the tokenizer, byte-level BPE over normalised words, and counts in how many passages each term occurs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

# Words that say nothing about a subject, as the normaliser leaves them.
_STOP_WORDS = (
    "a about above after again against all also although am an and any are as at be because been before "
    "being below between both but by can cannot could did do does doing done down during each either etc "
    "few for from further had has have having he her here hers herself him himself his how however i if "
    "in into is it its itself just may me might more most much must my myself neither no nor not now of "
    "off often on once only or other our ours ourselve out over own per quite rather same shall she "
    "should since so some such than that the their theirs them themselve then there therefore these they "
    "this those through thus to too under until up upon us use used using very via was we well were what "
    "when where whether which while who whom whose why will with within without would you your yourself t "
    "don doesn didn isn wasn aren couldn wouldn won ve ll re "
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


def normalizer() -> normalizers.Normalizer:
    """Return the text normaliser: a word is the same wherever it stands, and a plural is its singular.

    Compatibility forms, accents, case and possessives go, everything but letters and digits becomes a space, and
    three rules take plurals off (after Harman's S-stemmer, 1991): -ies to -y, -es after a hiss, and -s.
    """
    return normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"['’]s(?!\p{L})"), ""),
            normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
            normalizers.Replace(Regex(r"(?<=\p{L}[^ea\P{L}])ies(?!\p{L})"), "y"),
            normalizers.Replace(Regex(r"(?<=\p{L}(?:ch|sh|ss|zz|x))es(?!\p{L})"), ""),
            normalizers.Replace(Regex(r"(?<=\p{L}{2}[^usi\P{L}])s(?!\p{L})"), ""),
        ]
    )


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, longest: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on the texts; every word begins with a space, so its place does not matter."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=longest
    )


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], longest: int) -> list[np.ndarray]:
    """Return the token ids of each text, without special tokens, cut at `longest`."""
    backend = tokenizer.backend_tokenizer
    encoded = backend.encode_batch(list(texts), add_special_tokens=False)
    return [np.asarray(one.ids[:longest], dtype=np.int32) for one in encoded]


def inverse_document_frequency(passages: Sequence[np.ndarray], vocabulary_size: int) -> np.ndarray:
    """Return BM25's IDF, ``log(1 + (N - n + .5) / (n + .5))``, float32 ``[vocabulary]``."""
    found = np.zeros(vocabulary_size, dtype=np.int64)
    for ids in passages:
        found[np.unique(ids)] += 1
    return np.log1p((len(passages) - found + 0.5) / (found + 0.5)).astype(np.float32)


def is_stop_word(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Return which ids are stop-words, single letters or special tokens: bool ``[vocabulary]``."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = [token.removeprefix("Ġ") if token.startswith("Ġ") else None for token in tokens]
    return np.array([index < 3 or word == "" or word in STOP_WORDS for index, word in enumerate(words)])
