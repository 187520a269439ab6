"""The commands print results on standard output and all else on standard error, and end with the documented codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyserini_llm_sparse import __version__
from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.cli.console import count, duration, size
from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.spec import EncodingSpec, sidecar
from tests.checkpoints import TEXTS, checkpoint

Output = pytest.CaptureFixture[str]


@pytest.fixture
def model() -> str:
    return str(checkpoint("llama_causal"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{n}", "contents": text}) + "\n" for n, text in enumerate(TEXTS)))
    return path


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    path = tmp_path / "topics.tsv"
    path.write_text("1\tsmall wings\n2\ta quiet doctor\n")
    return path


def encode(model: str, corpus: Path, *more: str) -> int:
    output = corpus.parent / "vectors"
    return main(
        ["encode", "--encoder", model, "--corpus", str(corpus), "--output", str(output), "--device", "cpu", *more]
    )


def test_the_version_is_printed(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pyserini-llm-sparse {__version__}\n"


def test_it_runs_as_a_module_and_help_needs_neither_torch_nor_pyserini(root: Path) -> None:
    program = (
        "import sys, runpy; sys.argv = ['x', 'encode', '--help']\n"
        "try: runpy.run_module('pyserini_llm_sparse', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, {'torch', 'transformers', 'pyserini'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_encoding_prints_its_summary_on_standard_error(model: str, corpus: Path, capsys: Output) -> None:
    assert encode(model, corpus) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "vectors: encoded 5 documents in " in printed.err
    assert encode(model, corpus) == 0
    assert "vectors: complete already: 5 documents; nothing to do" in capsys.readouterr().err


def test_a_script_gets_json(model: str, corpus: Path, capsys: Output) -> None:
    assert encode(model, corpus, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["encoded"], report["finished"]) == (5, 5, True)


def test_fields_may_be_separated_by_commas_or_spaces(model: str, tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"id": "1", "a": "cells", "b": "rivers"}\n')
    assert encode(model, corpus, "--fields", "a,b", "--contents") == 0
    assert '"contents":"cells rivers"' in (tmp_path / "vectors" / "embeddings-00000.jsonl").read_text()
    assert encode(model, corpus, "--fields", "b a", "--contents", "--overwrite") == 0
    assert '"contents":"rivers cells"' in (tmp_path / "vectors" / "embeddings-00000.jsonl").read_text()


def test_options_of_the_spec_are_recorded_with_the_vectors(model: str, corpus: Path) -> None:
    assert encode(model, corpus, "--max-active-terms", "7", "--max-length", "12") == 0
    spec = EncodingSpec.load(sidecar(corpus.parent / "vectors"))
    assert (spec.document_top_k, spec.document_max_length) == (7, 12)
    vectors = (corpus.parent / "vectors" / "embeddings-00000.jsonl").read_text().splitlines()
    assert {len(json.loads(line)["vector"]) for line in vectors} == {7}


def test_skipped_records_end_with_code_7_and_are_listed(model: str, corpus: Path, capsys: Output) -> None:
    with corpus.open("a") as lines:
        lines.write('{"id": "d0", "contents": "again"}\nnot json\n')
    assert encode(model, corpus, "--on-error", "skip") == 7
    errors = capsys.readouterr().err
    assert "2 records skipped: bad input; see " in errors
    assert len((corpus.parent / "vectors.skipped.jsonl").read_text().splitlines()) == 2


def test_a_record_without_text_is_told_and_ends_well_unless_asked_to_fail(
    model: str, corpus: Path, capsys: Output
) -> None:
    with corpus.open("a") as lines:
        lines.write('{"id": "471", "contents": ""}\n')
    assert encode(model, corpus) == 0
    assert "vectors: 1 record without text left out; see " in capsys.readouterr().err
    assert encode(model, corpus, "--overwrite", "--on-error", "fail") == 5
    assert "corpus.jsonl:6: empty text (id '471')" in capsys.readouterr().err


def test_lengths_and_sizes_are_told_at_the_end(model: str, corpus: Path, capsys: Output) -> None:
    assert encode(model, corpus, "--max-length", "5") == 0
    errors = capsys.readouterr().err
    written = (corpus.parent / "vectors" / "embeddings-00000.jsonl").stat().st_size
    assert f"vectors: {size(written)} of vectors" in errors
    assert "of those encoded now lost the end, beyond the maximum length" in errors


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (12_345, "12.3 kB"),
        (999_960, "1.0 MB"),
        (4 * 10**12, "4.0 TB"),
    ],
)
def test_sizes_in_words(number: int, words: str) -> None:
    assert size(number) == words


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--on-error", "perhaps"], 2, "perhaps"),
        (["--shard-id", "3"], 2, "--shard-id 3: there are 1 shards"),
        (["--device", "abacus"], 2, "device abacus: unknown"),
        (["--corpus", "nowhere.jsonl"], 4, "nowhere.jsonl: no such corpus"),
        (["--encoder", "./nowhere"], 4, "nowhere"),
        (["--fields", "body"], 5, "corpus.jsonl:1: no field body (id 'd0')"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_documented_code(
    arguments: list[str], code: int, said: str, model: str, corpus: Path, capsys: Output
) -> None:
    assert encode(model, corpus, *arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert len(printed.err.splitlines()) == 1 or printed.err.startswith("Usage:")


def test_a_traceback_is_shown_only_on_request(
    model: str, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    assert encode(model, corpus, "--fields", "body") == 5
    with pytest.raises(DataError):
        encode(model, corpus, "--fields", "body", "--traceback")
    monkeypatch.setenv("PYSERINI_LLM_SPARSE_TRACEBACK", "1")
    with pytest.raises(DataError):
        encode(model, corpus, "--fields", "body")


def encode_queries(model: str, topics: Path, name: str, *more: str) -> int:
    output = topics.parent / name
    return main(
        [
            "encode-queries",
            "--encoder",
            model,
            "--topics",
            str(topics),
            "--output",
            str(output),
            "--device",
            "cpu",
            *more,
        ]
    )


def test_encoded_queries_are_what_pyserini_and_anserini_read(model: str, topics: Path, tmp_path: Path) -> None:
    impacts = SparseEncoder.load(model, device="cpu").query_impacts(["small wings", "a quiet doctor"])
    assert encode_queries(model, topics, "q.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert lines == [
        {"contents": "small wings", "vector": impacts[0]},
        {"contents": "a quiet doctor", "vector": impacts[1]},
    ]
    repeated = [" ".join(term for term, impact in vector.items() for _ in range(impact)) for vector in impacts]
    assert encode_queries(model, topics, "q.json", "--format", "anserini-json") == 0
    lines = [json.loads(line) for line in (tmp_path / "q.json").read_text(encoding="utf-8").splitlines()]
    assert lines == [{"id": "1", "title": repeated[0]}, {"id": "2", "title": repeated[1]}]
    assert encode_queries(model, topics, "q.tsv", "--format", "anserini-tsv") == 0
    assert (tmp_path / "q.tsv").read_text(encoding="utf-8") == f"1\t{repeated[0]}\n2\t{repeated[1]}\n"
    assert EncodingSpec.load(sidecar(tmp_path / "q.tsv")).model_fingerprint


def test_a_query_without_terms_is_reported_and_left_out_where_it_would_break_the_file(
    topics: Path, tmp_path: Path, capsys: Output
) -> None:
    model = f"{checkpoint('inference_free')},excluded_token_ids={','.join(map(str, range(1000)))}"
    assert encode_queries(model, topics, "q.tsv", "--format", "anserini-tsv") == 7
    assert (tmp_path / "q.tsv").read_text() == ""
    assert "2 queries without any term: they were left out; see 1, 2" in capsys.readouterr().err


def test_a_file_is_replaced_only_on_request(model: str, topics: Path, capsys: Output) -> None:
    assert encode_queries(model, topics, "q.txt") == 2
    assert "Pyserini takes only a .jsonl file" in capsys.readouterr().err
    assert encode_queries(model, topics, "topics.tsv", "--format", "anserini-tsv") == 2
    assert "exists already" in capsys.readouterr().err
    assert encode_queries(model, topics, "q.jsonl") == 0
    assert encode_queries(model, topics, "q.jsonl", "--overwrite") == 0
    assert encode_queries(model, topics, "nowhere/q.jsonl") == 4


@pytest.mark.parametrize("side", ["query", "document"])
def test_explaining_a_text_tells_its_own_terms_from_expansions(side: str, model: str, capsys: Output) -> None:
    text = "A heart that beats too fast"
    assert main(["explain", "--encoder", model, "--text", text, "--side", side, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    encoder = SparseEncoder.load(model, device="cpu")
    impacts = (encoder.query_impacts if side == "query" else encoder.document_impacts)([text])[0]
    assert {**found["own"], **found["expansions"]} == impacts
    tokens = {
        encoder.vocabulary.terms[token] for token in encoder.tokenization.token_ids([text], "document")[0].ids[1:]
    }
    assert set(found["own"]) == tokens & set(impacts)
    assert not tokens & set(found["expansions"])
    prefixed = f"{model},{side}_prefix=doctor: "
    assert main(["explain", "--encoder", prefixed, "--text", text, "--side", side, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["own"].keys() <= tokens
    assert main(["explain", "--encoder", model, "--text", text, "--side", side, "--top", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"{len(impacts)} terms as a {side}: {len(found['own'])} of the text's own" in shown
    assert "more; --top shows more of them" in shown


def test_explaining_needs_a_text_or_a_query_with_its_document(model: str, capsys: Output) -> None:
    assert main(["explain", "--encoder", model]) == 2
    assert main(["explain", "--encoder", model, "--text", "x", "--query", "x"]) == 2
    assert main(["explain", "--encoder", model, "--index", "i", "--query", "x"]) == 2
    assert "give either --text, or all of --index, --query and --docid" in capsys.readouterr().err


def test_unfinished_vectors_are_not_indexed(corpus: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "vectors.unfinished").mkdir()
    assert main(["index", "--input", str(tmp_path / "vectors"), "--index", str(tmp_path / "index")]) == 5
    assert "is not finished" in capsys.readouterr().err


def test_numbers_are_written_as_people_read_them() -> None:
    assert [count(1, "query"), count(2, "query"), count(5183, "document")] == [
        "1 query",
        "2 queries",
        "5,183 documents",
    ]
    assert [duration(7.53), duration(125), duration(3725)] == ["7.5 s", "2:05", "1:02:05"]
