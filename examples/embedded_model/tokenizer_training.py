"""Makes the tokenizer, the sentence encoder's commonest word pieces, and counts in how many passages a term occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, UNKNOWN = SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
INSIDE = "##"  # begins a piece that does not begin a word

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


def word_pieces(vocabulary: Mapping[str, int]) -> Tokenizer:
    """Return a tokenizer that cuts each normalised word into its longest known pieces, from the left."""
    tokenizer = Tokenizer(models.WordPiece(dict(vocabulary), unk_token=UNKNOWN))
    tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix=INSIDE)
    return tokenizer


def train_tokenizer(
    texts: Iterable[str], known: Mapping[str, int], vocabulary_size: int, longest: int
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of those pieces that are commonest in the texts; single letters and digits are all kept.

    Args:
        texts: training texts.
        known: the sentence encoder's word pieces.
        vocabulary_size: how many to keep, special tokens included.
        longest: most tokens of a text.
    """
    whole = word_pieces(known)
    counts: Counter[str] = Counter()
    for part in _parts(texts, 4096):
        for encoded in whole.encode_batch(part, add_special_tokens=False):
            counts.update(encoded.tokens)
    letters = [piece for piece in known if len(piece.removeprefix(INSIDE)) == 1 and piece.isascii()]
    usable = [piece for piece in letters if piece.removeprefix(INSIDE).isalnum()]
    pieces = dict.fromkeys([*SPECIAL, *usable, *(piece for piece, _ in counts.most_common())])
    vocabulary = {piece: number for number, piece in enumerate(islice(pieces, vocabulary_size))}
    return PreTrainedTokenizerFast(
        tokenizer_object=word_pieces(vocabulary),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=longest,
    )


def _parts(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    stream = iter(texts)
    while part := list(islice(stream, size)):
        yield part


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
    """Return which ids are stop-words or special tokens: bool ``[vocabulary]``."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return np.array([token in SPECIAL or token in STOP_WORDS for token in tokens])
