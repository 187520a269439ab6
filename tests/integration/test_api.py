"""The same from Python, and what must stay as it was: other encoders, and processes that opted out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints import causal_model, transformers_tokenizer
from tests.commands import Pyserini

pytestmark = pytest.mark.end_to_end

PROGRAM = """
import json, logging, sys, threading
from pathlib import Path
index, model, other, wide = sys.argv[1:]
from pyserini.search.lucene import LuceneImpactSearcher
from pyserini.encode import CachedDataQueryEncoder, TokFreqQueryEncoder
from pyserini.encode import document_encoder_class_map, query_encoder_class_map
import pyserini_llm_sparse
from pyserini_llm_sparse.errors import LlmSparseError, SpecMismatchError, UsageError

found = {}
pyserini_llm_sparse.register()
pyserini_llm_sparse.register()
searcher = LuceneImpactSearcher(index, f"csplade:{model}")
hits = lambda hits: [(hit.docid, hit.score) for hit in hits]
alone = {str(n): hits(searcher.search(q, k=50)) for n, q in enumerate(["wings in the wind", "lakes", ""])}
batch = searcher.batch_search(["wings in the wind", "lakes", ""], ["0", "1", "2"], k=50, threads=2)
found["batch_is_alone"] = {name: hits(batch[name]) for name in alone} == alone
found["empty_query_finds_nothing"] = alone["2"] == []

encoded = searcher.encode("wings in the wind")
everywhere = [term for term in encoded if searcher.idf.get(term) == 0]
found["terms_in_every_document"] = len(everywhere)
chosen = LuceneImpactSearcher(index, searcher.query_encoder, min_idf=0)
product = sum(encoded[term] for term in everywhere)
found["explicit_min_idf_drops_them"] = hits(chosen.search("wings in the wind", k=1))[0][1] < alone["0"][0][1]

results = {}
def work(number):
    results[number] = searcher.query_encoder.encode("wings in the wind")
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
found["threads_agree"] = all(results[number] == encoded for number in range(8))

try:
    LuceneImpactSearcher(other, f"csplade:{model}")
except SpecMismatchError as error:
    found["mismatch"] = str(error)
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("pyserini_llm_sparse").addHandler(handler)
without = LuceneImpactSearcher(sys.argv[2] + "_index", searcher.query_encoder)
found["no_spec"] = list(messages)

broad = LuceneImpactSearcher(sys.argv[2] + "_index", f"csplade:{wide}")
found["query_terms"] = len(broad.encode("wings"))
found["wide_hits"] = len(broad.search("wings", k=5))

found["pretokenised_is_upstreams"] = type(LuceneImpactSearcher(index, None).query_encoder) is TokFreqQueryEncoder
Path("cached.jsonl").write_text(json.dumps({"contents": "x", "vector": {"a": 1}}) + "\\n")
cached = LuceneImpactSearcher(index, "cached.jsonl").query_encoder
found["cached_is_upstreams"] = type(cached) is CachedDataQueryEncoder
found["first_keyword"] = [next(iter(document_encoder_class_map)), next(iter(query_encoder_class_map))]
documents = document_encoder_class_map["csplade"](model_name=model, device="cpu")
pair = documents.encode(texts=["wings", None], titles=[None, "Wind"], fp16=False, max_length=16, add_sep=False)
found["documents"] = pair == documents.encode(["wings", "Wind"])
try:
    query_encoder_class_map["csplade"](encoder_dir="csplade")
except UsageError as error:
    found["dense"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose queries have more terms than Lucene allows by itself."""
    from pyserini_llm_sparse.modelling.checkpoint import save_checkpoint
    from pyserini_llm_sparse.modelling.spec import EncodingSpec

    folder = tmp_path_factory.mktemp("wide")
    tokenizer = transformers_tokenizer()
    tokenizer.add_tokens([f"extra{number}" for number in range(3000)])
    model = causal_model("llama", len(tokenizer))
    model.base_model.norm.weight.data[0] = 0.0  # nothing speaks against all terms: half of them are activated
    save_checkpoint(folder, model, tokenizer, EncodingSpec(attention="causal"), None)
    return folder


@pytest.fixture(scope="module")
def found(pyserini: Pyserini, index: Path, model: Path, wide_model: Path, tmp_path_factory) -> dict:
    """What one Python program finds out."""
    import shutil

    from pyserini_llm_sparse.modelling.spec import EncodingSpec

    folder = tmp_path_factory.mktemp("api")
    other, bare = folder / "other", Path(f"{model}_index")
    shutil.copytree(index, other)
    shutil.copytree(index, bare)
    (bare / "encoding_spec.json").unlink()
    EncodingSpec.load(other).replace(attention="echo").save(other)
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    return json.loads(pyserini(program, index, model, other, wide_model).stdout.splitlines()[-1])


def test_a_searcher_made_in_python_searches(found) -> None:
    assert found["batch_is_alone"]
    assert found["empty_query_finds_nothing"]


def test_terms_of_every_document_count_unless_a_minimum_idf_is_given(found) -> None:
    assert found["terms_in_every_document"] > 0
    assert found["explicit_min_idf_drops_them"]


def test_threads_may_share_an_encoder(found) -> None:
    assert found["threads_agree"]


def test_queries_may_have_more_terms_than_lucene_allows_by_itself(found) -> None:
    assert found["query_terms"] > 1024
    assert found["wide_hits"] == 5


def test_a_program_gets_the_exception(found) -> None:
    assert "attention is 'causal' here, 'echo' there" in found["mismatch"]
    assert "sparse" in found["dense"]


def test_an_index_without_a_spec_is_searched_with_one_warning(found) -> None:
    assert len(found["no_spec"]) == 1
    assert "carries no encoding spec" in found["no_spec"][0]


def test_other_encoders_are_upstreams(found) -> None:
    assert found["pretokenised_is_upstreams"]
    assert found["cached_is_upstreams"]


def test_document_encoder_takes_what_pyserini_passes(found) -> None:
    assert found["first_keyword"] == ["csplade", "csplade"]
    assert found["documents"]


def test_opting_out_leaves_pyserini_alone(pyserini: Pyserini) -> None:
    code = "import pyserini, sys; print(*(type(finder).__module__ for finder in sys.meta_path))"
    assert "pyserini_llm_sparse" in pyserini("-c", code).stdout
    assert "pyserini_llm_sparse" not in pyserini("-c", code, PYSERINI_LLM_SPARSE_DISABLE="1").stdout


def test_the_mirror_command_needs_no_hook(
    pyserini: Pyserini, index: Path, model: Path, topics: Path, tmp_path: Path
) -> None:
    pyserini.module(
        "pyserini_llm_sparse.pyserini", "pyserini.search.lucene", "--index", index, "--topics", topics,
        "--encoder", model, "--impact", "--output", tmp_path / "run", PYSERINI_LLM_SPARSE_DISABLE="1",
    )  # fmt: skip
    assert (tmp_path / "run").stat().st_size > 0


SERVER = """
import json, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode
from urllib.request import urlopen
import uvicorn
from pyserini.server.rest.app import create_app

app = create_app(sys.argv[1], no_prebuilt_indexes=True)
server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
running = threading.Thread(target=server.run)
running.start()
while not server.started:
    time.sleep(0.05)
port = server.servers[0].sockets[0].getsockname()[1]

def ask(query):
    with urlopen(f"http://127.0.0.1:{port}/v1/own/search?" + urlencode({"query": query, "hits": 3})) as answer:
        return [candidate["docid"] for candidate in json.load(answer)["candidates"]]

alone = [ask(query) for query in ("wings in the wind", "lakes")]
with ThreadPoolExecutor(4) as threads:
    together = list(threads.map(ask, ["lakes"] * 6))
server.should_exit = True
running.join()
print(json.dumps({"answers": alone, "same": together == [alone[1]] * 6}))
"""


def test_the_server_of_pyserini_2_searches_a_local_index(
    pyserini: Pyserini, line: int, index: Path, model: Path, documents, search, tmp_path: Path
) -> None:
    if line < 2:
        pytest.skip("Pyserini 1.6 serves prebuilt indexes only")
    (tmp_path / "texts").mkdir()
    rows = [{"id": document["id"], "contents": document["text"] or "nothing"} for document in documents]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "texts" / "all.jsonl").write_text(text, encoding="utf-8")
    pyserini.module(
        "pyserini.index.lucene", "--collection", "JsonCollection", "--input", tmp_path / "texts", "--index",
        tmp_path / "base", "--generator", "DefaultLuceneDocumentGenerator", "--threads", 1, "--storeRaw",
    )  # fmt: skip
    (tmp_path / "server.yaml").write_text(
        f"indexes:\n"
        f"  base: {{path: {tmp_path / 'base'}, index_type: tf}}\n"
        f"  own: {{path: {index}, index_type: impact, base_index: base, encoder: 'csplade:{model}'}}\n",
        encoding="utf-8",
    )
    found = json.loads(pyserini("-c", SERVER, tmp_path / "server.yaml").stdout.splitlines()[-1])
    expected = [document for document, _ in search("--index", index, "--encoder", model)["1"]][:3]
    assert found["answers"][0] == expected
    assert found["same"]


THREADS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pyserini.search.lucene import LuceneImpactSearcher
from pyserini_llm_sparse.indexing.lucene import LuceneIndex

encoder, index = sys.argv[1:]
words = "wings wind lakes feathers river stone night winter forest birds".split()
queries = [f"{first} {second}" for first in words for second in words]
searcher = LuceneImpactSearcher(index, encoder)
with LuceneIndex(index) as opened:
    impacts = {query: searcher.query_encoder.encode(query) for query in queries}
    ask = {
        "LuceneImpactSearcher": lambda query: [[hit.docid, hit.score] for hit in searcher.search(query, 20)],
        "LuceneIndex": lambda query: [[hit.document_id, hit.score] for hit in opened.search(impacts[query], 20)],
    }
    wrong = {}
    for name, search in ask.items():
        alone = [search(query) for query in queries]
        sys.setswitchinterval(1e-3)
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(search, queries * 5))
        sys.setswitchinterval(5e-3)
        wrong[name] = sum(one != other for one, other in zip(together, alone * 5, strict=True))
print(json.dumps(wrong))
"""


def test_different_queries_from_several_threads_get_their_own_answers(
    pyserini: Pyserini, model: Path, index: Path
) -> None:
    wrong = json.loads(pyserini("-c", THREADS, f"csplade:{model}", index).stdout.splitlines()[-1])
    assert wrong == {"LuceneImpactSearcher": 0, "LuceneIndex": 0}
