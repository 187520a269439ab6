"""A model directory's tokenizer with its special tokens, read without transformers where that is possible."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pyserini_llm_sparse.errors import DataError, ResourceError, one_line
from pyserini_llm_sparse.files.settings import read_json
from pyserini_llm_sparse.modelling.tokenizer_settings import CONFIG_FILE, differing_settings

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextTokenizer:
    """A fast tokenizer together with its special tokens.

    Attributes:
        backend: The `tokenizers` object, without truncation, padding or template being applied.
        bos_id: Id of the token that starts a sequence, None if the tokenizer has none.
        eos_id: Id of the token that ends a sequence, None if there is none.
        pad_id: Id of the padding token, None if there is none.
    """

    backend: Tokenizer
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None

    @classmethod
    def from_folder(cls, folder: str | Path, trust_remote_code: bool = False) -> TextTokenizer:
        """Read the tokenizer of a model directory.

        ``tokenizer.json`` is taken as it stands where the files beside it say the same. Where they differ (lower case,
        a space before the text, added tokens), and where there are only older files (SentencePiece, WordPiece
        vocabularies), it is what transformers makes of the directory, which imports transformers.

        Raises:
            ResourceError: The directory holds no tokenizer.
            DataError: Its files cannot be read.
        """
        folder = Path(folder)
        if not (folder / TOKENIZER_FILE).is_file():
            return cls._converted(folder, trust_remote_code)
        try:
            backend = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        except Exception as error:  # the Rust side raises bare Exception
            raise DataError(
                f"{folder / TOKENIZER_FILE}: not a tokenizer: {one_line(error)}; restore the file"
            ) from error
        if differing := differing_settings(folder, backend):
            return cls._as_transformers_reads_it(folder, backend, differing, trust_remote_code)
        return cls._with_named_tokens(folder, backend)

    @classmethod
    def _with_named_tokens(cls, folder: Path, backend: Tokenizer) -> TextTokenizer:
        ids = {name: _named_token(folder, backend, name) for name in ("bos", "eos", "pad")}
        return cls(_plain(backend), ids["bos"], ids["eos"], ids["pad"])

    @classmethod
    def _as_transformers_reads_it(
        cls, folder: Path, backend: Tokenizer, differing: list[str], trust_remote_code: bool
    ) -> TextTokenizer:
        listed = f"{', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}"
        read = cls._converted(folder, trust_remote_code)
        if _pipeline(read.backend) == _pipeline(backend):  # transformers makes nothing of the difference either
            return cls._with_named_tokens(folder, backend)
        _logger.warning("%s: %s: not what %s says; both are read as transformers does", folder, listed, TOKENIZER_FILE)
        return read

    @classmethod
    def from_any(cls, tokenizer: Any) -> TextTokenizer:
        """Wrap a transformers fast tokenizer or a `tokenizers.Tokenizer`; a `TextTokenizer` is returned as it is.

        Raises:
            DataError: The tokenizer is a slow one, without a `tokenizers` object inside.
        """
        if isinstance(tokenizer, cls):
            return tokenizer
        if isinstance(tokenizer, Tokenizer):
            return cls(_plain(tokenizer))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise DataError(
                f"{type(tokenizer).__name__}: not a fast tokenizer: it has no `tokenizers` object; convert it and save "
                f"{TOKENIZER_FILE}"
            )
        return cls(_plain(backend), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)

    @classmethod
    def _converted(cls, folder: Path, trust_remote_code: bool) -> TextTokenizer:
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise ResourceError(
                f"{folder}: no tokenizer: none of {', '.join(TOKENIZER_FILES)} is there; copy the tokenizer of the "
                "backbone into it, or name one: csplade:MODEL,tokenizer=PATH_OR_HUB_ID"
            )
        from transformers import AutoTokenizer

        try:
            return cls.from_any(AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code))
        except Exception as error:  # the Rust side raises bare Exception
            raise DataError(
                f"{folder}: transformers cannot read the tokenizer: {one_line(error)}; save it as {TOKENIZER_FILE}, "
                f"and the same settings in {CONFIG_FILE}"
            ) from error

    def framed_by_template(self) -> TextTokenizer:
        """Return it with the tokens that its own template puts around a text as BOS and EOS, None where it puts none.

        For BERT those are [CLS] and [SEP], whatever its files call BOS and EOS.

        Raises:
            DataError: The template puts several tokens on one side.
        """
        encoding = self.backend.encode("a")
        added, ids = encoding.special_tokens_mask, encoding.ids
        inside = [place for place, special in enumerate(added) if not special] or [len(ids)]
        before, after = ids[: inside[0]], ids[inside[-1] + 1 :]
        if len(before) > 1 or len(after) > 1:
            raise DataError(
                f"tokenizer: its template puts {len(before)} tokens before a text and {len(after)} after it: an "
                "encoding spec has room for one on each side; use a tokenizer with such a template"
            )
        return replace(self, bos_id=before[0] if before else None, eos_id=after[0] if after else None)

    def tokens(self, vocabulary_size: int) -> list[str | None]:
        """Return the token text of each id ``0 .. vocabulary_size - 1``; None for an id without a token.

        Raises:
            DataError: The tokenizer makes ordinary tokens that the model has no logit for. (Added tokens beyond the
                model's vocabulary, usually a padding token, are let be: they are dropped from texts.)
        """
        added = {*self.special_ids(), *self.added_ids()}
        tokens: list[str | None] = [None] * vocabulary_size
        for token, token_id in self.backend.get_vocab(with_added_tokens=True).items():
            if token_id < vocabulary_size:
                tokens[token_id] = token
            elif token_id not in added:
                raise DataError(
                    f"tokenizer: the token {token!r} has id {token_id}, but the model's vocabulary ends at "
                    f"{vocabulary_size - 1}: tokenizer and model do not belong together; use the model's own tokenizer"
                )
        return tokens

    def special_ids(self) -> tuple[int, ...]:
        """Return the ids of all special tokens, BOS, EOS and padding among them, in ascending order."""
        added = {token_id for token_id, token in self.backend.get_added_tokens_decoder().items() if token.special}
        return tuple(sorted(added | {known for known in (self.bos_id, self.eos_id, self.pad_id) if known is not None}))

    def added_ids(self) -> tuple[int, ...]:
        """Return the ids of all tokens that were added to the vocabulary, special or not."""
        return tuple(self.backend.get_added_tokens_decoder())

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and a ``tokenizer_config.json`` that transformers reads too."""
        self.backend.save(str(Path(folder) / TOKENIZER_FILE))
        named = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        for name, token_id in named.items():
            config[name] = None if token_id is None else self.backend.id_to_token(token_id)
        if self.backend.encode_special_tokens:
            config["split_special_tokens"] = True
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (Path(folder) / CONFIG_FILE).write_text(text, encoding="utf-8")


def _plain(backend: Tokenizer) -> Tokenizer:
    """Switch off truncation and padding that a tokenizer was saved with: the spec alone decides."""
    if backend.truncation is not None or backend.padding is not None:
        splits = backend.encode_special_tokens  # which is not written down
        backend = Tokenizer.from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = splits
    return backend


def _pipeline(backend: Tokenizer) -> tuple[bool, dict[str, Any]]:
    """Return what makes tokens of a text; a template adds to them, and is not used."""
    content = json.loads(backend.to_str())
    for name in ("truncation", "padding", "post_processor", "decoder"):
        content.pop(name)
    return backend.encode_special_tokens, content


def _named_token(folder: Path, backend: Tokenizer, name: str) -> int | None:
    """Return the id of the BOS, EOS or padding token that a model directory's files name.

    ``tokenizer_config.json`` decides where it exists, since ``config.json`` names a BOS even for models that were
    trained without one (Qwen).
    """
    for file, key in (
        (CONFIG_FILE, f"{name}_token"),
        ("special_tokens_map.json", f"{name}_token"),
        ("config.json", f"{name}_token_id"),
    ):
        content = read_json(folder / file)
        if content is None or (key not in content and file != CONFIG_FILE):
            continue
        token = content.get(key)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, list):
            token = token[0] if token else None
        if token is None:
            return None
        token_id = token if isinstance(token, int) else backend.token_to_id(token)
        if token_id is None and name == "pad":  # masked positions are never looked at
            return None
        if token_id is None:
            raise DataError(f"{folder / file}: {key} {token!r} is not in the vocabulary; correct the file")
        return int(token_id)
    return None
