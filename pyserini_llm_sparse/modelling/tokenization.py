"""Text to token ids under the encoding spec: prefix, BOS, EOS, echo, truncation, and which positions are pooled.

Only the `tokenizers` library is needed for that, so a process that encodes queries without a model starts fast; torch
is imported when the first batch of tensors is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.modelling.folding import normalised
from pyserini_llm_sparse.modelling.spec import EncodingSpec, Side
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer

if TYPE_CHECKING:
    import torch

CHARACTERS_PER_TOKEN = 8  # of a long text, this many characters for each token that is kept are tokenised at first
LEAST_CHARACTERS = 2048
MARGIN_TOKENS = 32  # that many tokens after the last kept one must not have been touched by a cut


class TokenizedText(NamedTuple):
    """One text as the model sees it.

    Attributes:
        ids: Token ids, special tokens, prefix and for echo both copies included; empty for a text without content.
        pool: The positions that are pooled.
    """

    ids: list[int]
    pool: range


class Batch(NamedTuple):
    """Texts as tensors ``[batch, length]``; masks are int64 with 1 for a position that counts."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pool_mask: torch.Tensor


class Tokenization:
    """Turns texts into token ids as an encoding spec says.

    A sequence is ``[BOS] prefix text [EOS]``, prefix and text being tokenised as one string, as the models were
    trained. For echo (CSPLADE, section 3.2) it is ``[BOS] prefix text prefix text [EOS]``: the string's tokens are
    repeated before any padding, the special tokens are not; only what follows the first copy is pooled. The maximum
    length counts ``[BOS] prefix text [EOS]`` once, so causal and echo see the same part of a long text; a longer text
    loses its end.

    Pooled are all positions (of the second copy for echo, then with EOS and without BOS), or with
    ``pooled_span="text"`` those of the text's own tokens. For inference-free queries it is always the latter: a query
    is the terms that it contains.

    ``text_normalisation`` comes first, for the text but not for its prefix.

    None and texts without any character but white space have no content: their ``ids`` are empty and their vector is
    empty; the model never sees them, since BOS alone would give every such text the same meaningless terms. Lone
    surrogates, which no tokenizer accepts, become U+FFFD; NUL is a character like any other.

    Attributes:
        tokenizer: The tokenizer.
        spec: The spec.
        truncated_documents: How many documents lost their end so far.
    """

    def __init__(self, tokenizer: Any, spec: EncodingSpec, vocabulary_size: int | None = None) -> None:
        """Prepare a tokenizer for a spec.

        Args:
            tokenizer: A `TextTokenizer`, a transformers fast tokenizer or a `tokenizers.Tokenizer`.
            spec: Says how texts are framed.
            vocabulary_size: Rows of the model's embedding; added tokens beyond are dropped from texts.

        Raises:
            DataError: The spec asks for a BOS or EOS token that the tokenizer does not have.
        """
        self.truncated_documents = 0
        self.tokenizer = TextTokenizer.from_any(tokenizer)
        self.spec = spec
        for name, wanted, token_id in (
            ("bos", spec.add_bos, self.tokenizer.bos_id),
            ("eos", spec.add_eos, self.tokenizer.eos_id),
        ):
            if wanted and token_id is None:
                raise DataError(
                    f"encoding spec: add_{name} is true, but the tokenizer has no {name.upper()} token; set "
                    f"add_{name}=false, or add the token to tokenizer_config.json"
                )
        self._before = [self.tokenizer.bos_id] if spec.add_bos and self.tokenizer.bos_id is not None else []
        self._after = [self.tokenizer.eos_id] if spec.add_eos and self.tokenizer.eos_id is not None else []
        limit = vocabulary_size if vocabulary_size is not None else 1 << 62
        known = {*self.tokenizer.special_ids(), *self.tokenizer.added_ids()}
        self._dropped = {token_id for token_id in known if token_id >= limit}
        self._prefix_ids = {
            prefix: self._cleaned(self.tokenizer.backend.encode(prefix, add_special_tokens=False).ids)
            for prefix in {spec.query_prefix, spec.document_prefix}
        }

    def token_ids(self, texts: Sequence[str | None], side: Side, max_length: int | None = None) -> list[TokenizedText]:
        """Tokenise queries or documents.

        Args:
            texts: The texts; None is an empty text.
            side: ``query`` or ``document``.
            max_length: Maximum number of tokens of a text, by default as the spec says.

        Raises:
            UsageError: The maximum length has no room for a token of the text.
            DataError: A text is neither a string nor None.
        """
        prefix = self.spec.prefix(side)
        length = self.spec.max_length(side) if max_length is None else max_length
        room = length - len(self._before) - len(self._after)
        if room <= len(self._prefix_ids[prefix]):
            raise UsageError(
                f"tokenization: a maximum length of {length} leaves no room for a {side}: special tokens and prefix "
                f"take {length - room + len(self._prefix_ids[prefix])}; raise {side}_max_length"
            )
        text_only = self.spec.pooled_span == "text" or (side == "query" and self.spec.query_encoder == "inference-free")
        clean = [normalised(_clean(text, number), self.spec.text_normalisation) for number, text in enumerate(texts)]
        filled = [number for number, text in enumerate(clean) if text]
        result = [TokenizedText([], range(0))] * len(clean)
        copies, truncated = self._tokenise([clean[number] for number in filled], prefix, room, with_offsets=text_only)
        if side == "document":
            self.truncated_documents += truncated
        for number, (ids, text_start) in zip(filled, copies, strict=True):
            if ids != self._prefix_ids[prefix] and text_start < len(ids):
                result[number] = self._framed(ids, text_start, text_only)
        return result

    def batch(self, texts: Sequence[TokenizedText], pad_side: str = "right", device: Any = None) -> Batch:
        """Pad tokenised texts to the longest of them.

        Args:
            texts: What `token_ids` returned.
            pad_side: ``right``, or ``left`` if the model is causal; its vectors are the same.
            device: Where the tensors are put, by default the CPU.
        """
        import torch

        longest = max((len(text.ids) for text in texts), default=0)
        pad_id = self.tokenizer.pad_id
        # Masked positions are never looked at: any id that the model has will do.
        fill = 0 if pad_id is None or pad_id in self._dropped else pad_id
        input_ids: list[list[int]] = []
        attention: list[list[int]] = []
        pool: list[list[int]] = []
        for ids, pooled in texts:
            padding, own = longest - len(ids), len(ids)
            pooled_row = [0] * pooled.start + [1] * len(pooled) + [0] * (own - pooled.stop)
            rows = ([fill] * padding, ids), ([0] * padding, [1] * own), ([0] * padding, pooled_row)
            for target, (padded, content) in zip((input_ids, attention, pool), rows, strict=True):
                target.append(padded + content if pad_side == "left" else content + padded)
        shape = (len(texts), longest)
        return Batch(
            *(torch.tensor(rows, dtype=torch.long).view(shape).to(device) for rows in (input_ids, attention, pool))
        )

    def _framed(self, ids: list[int], text_start: int, text_only: bool) -> TokenizedText:
        """Put special tokens around one or two copies, and say what is pooled."""
        echo = self.spec.attention == "echo"
        framed = [*self._before, *ids, *(ids if echo else ()), *self._after]
        last_copy = len(self._before) + (len(ids) if echo else 0)
        if text_only:
            return TokenizedText(framed, range(last_copy + text_start, last_copy + len(ids)))
        return TokenizedText(framed, range(last_copy if echo else 0, len(framed)))

    def _tokenise(
        self, texts: list[str], prefix: str, room: int, with_offsets: bool
    ) -> tuple[list[tuple[list[int], int]], int]:
        """Return for each text at most `room` ids of prefix and text, where its own start, and how many were cut.

        A text far longer than can matter is cut first. The cut is made between a word and the space after it, which no
        tokenizer joins, and its result is taken only if tokens to spare lie between the last kept one and the cut;
        otherwise four times as many characters are tried.
        """
        result: list[tuple[list[int], int]] = [([], 0)] * len(texts)
        truncated = 0
        characters = max(LEAST_CHARACTERS, room * CHARACTERS_PER_TOKEN)
        left = list(range(len(texts)))
        while left:
            parts = [prefix + _cut(texts[number], characters) for number in left]
            encode = self.tokenizer.backend.encode_batch if with_offsets else self.tokenizer.backend.encode_batch_fast
            again = []
            for number, part, encoding in zip(left, parts, encode(parts, add_special_tokens=False), strict=True):
                if len(part) < len(prefix) + len(texts[number]) and len(encoding.ids) < room + MARGIN_TOKENS:
                    again.append(number)
                    continue
                cleaned = self._cleaned(encoding.ids)
                ids = cleaned[:room]
                truncated += len(ids) < len(cleaned)
                start = 0
                if with_offsets and prefix:
                    ends = [
                        end
                        for token_id, (_, end) in zip(encoding.ids, encoding.offsets, strict=True)
                        if token_id not in self._dropped
                    ]
                    start = next((place for place, end in enumerate(ends) if end > len(prefix)), len(ends))
                result[number] = (ids, start)
            left, characters = again, characters * 4
        return result, truncated

    def _cleaned(self, ids: list[int]) -> list[int]:
        """Drop added tokens that the model has no embedding for."""
        return [token_id for token_id in ids if token_id not in self._dropped] if self._dropped else ids


def _clean(text: str | None, number: int) -> str:
    """Return a text that a tokenizer accepts; empty if it has no content."""
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError(f"text {number}: not a string but {type(text).__name__}: only text can be encoded; convert it")
    if not text or text.isspace():
        return ""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Halves of a pair that stand side by side are joined, as they were meant; a lone half becomes U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _cut(text: str, characters: int) -> str:
    """Return about the first `characters` of a text, up to the end of a word where there is one near."""
    if len(text) <= characters:
        return text
    for place in range(characters, characters - min(characters, 1024), -1):
        if text[place] == " " and not text[place - 1].isspace():
            return text[:place]
    return text[:characters]
