"""The process that Pyserini starts in: an unfit Java, no network on 2.4, no OpenAI key on 1.6, cores that are busy."""

from __future__ import annotations

import io
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

from pyserini_llm_sparse.errors import PrerequisiteError
from pyserini_llm_sparse.indexing.lucene import jdk
from pyserini_llm_sparse.plugin import command_line
from pyserini_llm_sparse.plugin.drift import expect

_logger = logging.getLogger(__name__)

OPENAI_KEY = "OPENAI_API_KEY"
# The two records that Pyserini 2.4 looks up while it is imported.
INDEXES_READ_AT_IMPORT = ("msmarco-v1-passage.unicoil", "msmarco-v2-passage.unicoil-0shot")


def share_cores() -> None:
    """Let threads of a product that wait for each other sleep; must come before torch is imported.

    By default they spin, so that on a machine with other work two threads can be slower than one: 577 against 1,617
    documents a minute with the embedded model. On an idle machine it makes no difference.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def prepare_java() -> None:
    """Give this process a fit Java, before the JVM starts, where its own is unfit."""
    try:
        jdk.use_jdk()
    except PrerequisiteError as error:
        if command_line.encoder_requested():
            raise
        # Pyserini will fail with a message of its own, which says less.
        _logger.warning("%s", error)


def patch_classpath(module: ModuleType) -> None:
    """Let Pyserini start on a Java without the vector module: it is for speed, and asking for it would be fatal."""
    configure = module.configure_classpath

    @wraps(configure)
    def configure_classpath(*arguments: Any, **options: Any) -> None:
        configure(*arguments, **options)
        current = jdk.current_jdk()
        if current is not None and not current.has_vector_module:
            import jnius_config

            wanted = [option for option in jnius_config.get_options() if jdk.VECTOR_MODULE not in option]
            jnius_config.set_options(*wanted)

    module.configure_classpath = configure_classpath  # type: ignore[attr-defined]


@contextmanager
def survive_offline(module: ModuleType) -> Iterator[None]:
    """While Pyserini 2.4 is imported, answer its two look-ups on GitHub if there is no network.

    Nothing made up survives: the look-ups' caches are emptied, so that a later use asks the network again.
    """
    real = urllib.request.urlopen
    offline = False

    @wraps(real)
    def urlopen(url: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal offline
        try:
            if not offline:  # once is enough: each attempt may take its whole timeout
                return real(url, *arguments, **options)
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, TimeoutError):
            offline = True
        fields = ("description", "filename", "urls", "md5", "size")
        records = [{"name": name, **dict.fromkeys(fields, "")} for name in INDEXES_READ_AT_IMPORT]
        return io.BytesIO(json.dumps(records).encode())

    urllib.request.urlopen = urlopen
    try:
        yield
    finally:
        urllib.request.urlopen = real
    if getattr(module, "urlopen", None) is urlopen:
        module.urlopen = real  # type: ignore[attr-defined]
    if offline:
        _forget_answers(module)


def _forget_answers(module: ModuleType) -> None:
    for name, value in list(vars(module).items()):
        if name.endswith("_INFO_MSMARCO") and getattr(value, "_info", None):
            value._info = None
        elif name.endswith("_ALIASES") and isinstance(value, dict):
            for alias in [alias for alias, record in value.items() if isinstance(record, dict)]:
                del value[alias]


@contextmanager
def survive_without_key(module: ModuleType) -> Iterator[None]:
    """Let Pyserini 1.6 be imported without an OpenAI key: it makes a client at once, which new clients refuse."""
    if os.environ.get(OPENAI_KEY):
        yield
        return
    before = os.environ.get(OPENAI_KEY)
    os.environ[OPENAI_KEY] = "not-set"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(OPENAI_KEY, None)
        else:
            os.environ[OPENAI_KEY] = before
    if hasattr(module, "client"):
        expect(hasattr(module, "openai"), "it has a client, but no openai")
        module.client = _ClientOnFirstUse(module.openai)  # type: ignore[attr-defined]
        module.api_key = ""  # type: ignore[attr-defined]


class _ClientOnFirstUse:
    """An OpenAI client that is made, and that complains about the missing key, when it is used."""

    def __init__(self, openai: ModuleType) -> None:
        self._openai = openai

    def __getattr__(self, name: str) -> Any:
        return getattr(self._openai.OpenAI(), name)
