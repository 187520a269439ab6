"""Names of encoders: their grammar, and which of them are ours."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.modelling.published import published

KEYWORD = "csplade"


EMBEDDED = Path(__file__).resolve().parents[1] / "models" / "csplade"


SPEC_FILE = "encoding_spec.json"


LOADING_OPTIONS = ("base", "tokenizer", "revision", "subfolder", "precision", "trust_remote_code")


FASTEST = "auto"  # in place of a precision: the fastest on the machine


_logger = logging.getLogger(__name__)


_FIELD = re.compile(r",(?=[a-z_]+=)")


@dataclass(frozen=True)
class ModelReference:
    """A model and how it is to be loaded.

    Attributes:
        model: Path of a directory, or hub id.
        overrides: Fields of the encoding spec by name, values as text or as Python values.
        base: Path or hub id of the model that an adapter belongs to, instead of the one that the adapter names.
        tokenizer: Path or hub id of the tokenizer, instead of the model's own.
        revision: Branch, tag or commit on the hub.
        subfolder: Folder inside the repository or directory that holds the model.
        precision: Of the ONNX export that computes the vectors instead of torch, made at its first use; ``auto`` for
            what is the fastest.
        trust_remote_code: Whether code that comes with the model may run.
    """

    model: str
    overrides: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    tokenizer: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    precision: str | None = None
    trust_remote_code: bool = False

    @property
    def made_by(self) -> str:
        """The name that vectors carry of their model: a hub id, `KEYWORD`, or a directory with the one above it."""
        if self.model == str(EMBEDDED):
            return KEYWORD
        path = Path(self.model)
        name = "/".join(path.resolve().parts[-2:]) if path.is_dir() else self.model
        return f"{name}@{self.revision}" if self.revision else name

    def with_options(self, **options: Any) -> ModelReference:
        """Return the reference with loading options and spec fields added or replaced; None leaves one as it is."""
        values = {name: getattr(self, name) for name in LOADING_OPTIONS}
        overrides = dict(self.overrides)
        for name, value in options.items():
            if name in LOADING_OPTIONS:
                values[name] = values[name] if value is None else value
            else:
                overrides[name] = value
        values["trust_remote_code"] = _truth("trust_remote_code", values["trust_remote_code"])
        return ModelReference(self.model, overrides, **values)


def parse_encoder_name(name: str) -> ModelReference:
    """Read an encoder's name.

    ``csplade`` is the model that the package carries; ``csplade:MODEL`` one at a path or on the hub, and so is any
    other text. Each may be followed by ``,field=value``: fields of the encoding spec, or one of `LOADING_OPTIONS`. A
    comma that no ``name=`` follows belongs to the path or value before it, and so does one in a path that exists.

    Raises:
        UsageError: No model is named, or a field is given twice.

    >>> parse_encoder_name("csplade:org/model,attention=echo,query_prefix=query, ").overrides
    {'attention': 'echo', 'query_prefix': 'query, '}
    """
    model, fields = _model_and_fields(name)
    if model.lower() == KEYWORD:
        if Path(model).is_dir():
            _logger.warning("%s: the model of the package, not the folder here; that is csplade:./%s", name, model)
        model = str(EMBEDDED)
    elif not _exists(model) and model.lower().startswith(f"{KEYWORD}:"):
        model = model[len(KEYWORD) + 1 :]
    if not model.strip() or ("=" in model and not _exists(model)):
        raise UsageError(
            f"encoder {name!r}: names no model; write csplade, csplade:PATH or csplade:HUB_ID, each with ,field=value"
        )
    options: dict[str, str] = {}
    for part in fields:
        key, value = part.split("=", 1)
        if key in options:
            raise UsageError(f"encoder {name!r}: {key} is given twice; keep one")
        options[key] = value
    return ModelReference(model).with_options(**options)


def _model_and_fields(name: str) -> tuple[str, list[str]]:
    """Split a name into the model, of which a path that exists may look like fields, and its fields."""
    parts = _FIELD.split(name)
    for end in range(len(parts), 1, -1):
        model = ",".join(parts[:end])
        if _exists(model) or (model.lower().startswith(f"{KEYWORD}:") and _exists(model[len(KEYWORD) + 1 :])):
            return model, parts[end:]
    return parts[0], parts[1:]


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False  # too long, or with a NUL: no path


def is_ours(name: str | None, force: bool = False) -> bool:
    """Tell whether an encoder name means an encoder of this package.

    Ours are the keyword ``csplade`` with or without a model, any path or hub id that contains it (Pyserini, too, infers
    an encoder's class from a part of its name), published models that we know, and directories with an encoding spec.
    A file is never ours: Pyserini reads encoded queries from it.

    Args:
        name: What Pyserini was given as ``--encoder``.
        force: Whether ``--encoder-class csplade`` was given, which makes any name ours.
    """
    if not name:
        return False
    if force:
        return True
    if name.lower().startswith((f"{KEYWORD}:", f"{KEYWORD},")):
        return True
    try:
        path = Path(_model_and_fields(name)[0])
        if path.is_file() or Path(name).is_file():
            return False
        if path.is_dir():  # of a directory its own name counts, not those of the folders that it lies in
            return (path / SPEC_FILE).is_file() or KEYWORD in path.resolve().name.lower()
    except (OSError, ValueError):
        return False  # too long, or with a NUL: no path
    return KEYWORD in name.lower() or published(str(path)) is not None


def _truth(name: str, value: Any) -> bool:
    """Read a yes or no."""
    text = str(value).lower()
    if text in ("true", "1", "yes"):
        return True
    if text in ("false", "0", "no"):
        return False
    raise UsageError(f"{name}={value}: neither true nor false; write {name}=true or leave it out")
