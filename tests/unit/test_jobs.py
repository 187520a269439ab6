"""The encoding job: the same bytes however it is cut, interrupted or continued, and nothing lost without a word."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, ResourceError, RunError, SpecMismatchError, UsageError
from pyserini_llm_sparse.files.vector_lines import vector_line
from pyserini_llm_sparse.indexing.vectors import EncodeReport, encode_corpus
from pyserini_llm_sparse.indexing.vectors.identity import job_identity
from pyserini_llm_sparse.indexing.vectors.state import JobState
from pyserini_llm_sparse.modelling.spec import EncodingSpec, sidecar
from pyserini_llm_sparse.system import own_environment
from tests.checkpoints import checkpoint, sentences

COUNT, WINDOW = 50, 8  # seven windows, the last of two documents


@pytest.fixture(scope="module")
def encoder() -> SparseEncoder:
    return SparseEncoder.load(str(checkpoint("llama_causal")), device="cpu", document_top_k=20)


@pytest.fixture(scope="module")
def documents() -> list[tuple[str, str]]:
    source = sentences()
    return [(f"d{number}", " ".join(source[number % len(source)].split()[: number % 9 + 1])) for number in range(COUNT)]


@pytest.fixture
def corpus(documents: list[tuple[str, str]], tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": name, "contents": text}) + "\n" for name, text in documents))
    return path


def run(encoder: SparseEncoder, corpus: Path, output: Path, **options: Any) -> EncodeReport:
    return encode_corpus(encoder, corpus, output, **{"window_size": WINDOW, "batch_size": 4, **options})


def content(output: Path) -> dict[str, bytes]:
    """Every file of the folder and beside it, so that a temporary file left behind would show, too."""
    return {
        path.relative_to(output.parent).as_posix(): path.read_bytes()
        for path in sorted(output.parent.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def expected(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    (tmp_path / "whole").mkdir()
    run(encoder, corpus, tmp_path / "whole" / "vectors")
    return content(tmp_path / "whole" / "vectors")


class Stop(BaseException):
    """Stands for a process that ends where it stands."""


def half_done(encoder: SparseEncoder, corpus: Path, output: Path) -> None:
    """Stop in the third window."""
    done = 0

    def stop(count: int, now: bool) -> None:
        nonlocal done
        done += count
        if done > 2 * WINDOW:
            raise Stop

    with pytest.raises(Stop):
        run(encoder, corpus, output, progress=stop)


def test_each_document_is_written_once_in_order_with_the_encoders_impacts(
    encoder: SparseEncoder, documents: list[tuple[str, str]], corpus: Path, tmp_path: Path
) -> None:
    report = run(encoder, corpus, tmp_path / "vectors")
    lines = b"".join(path.read_bytes() for path in sorted((tmp_path / "vectors").iterdir()))
    impacts = encoder.document_impacts([text for _, text in documents])
    assert lines == b"".join(vector_line(name, vector) for (name, _), vector in zip(documents, impacts, strict=True))
    assert (report.documents, report.encoded, report.skipped, report.finished) == (COUNT, COUNT, 0, True)


def test_beside_the_vectors_lie_their_spec_and_a_manifest_that_proves_them(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path
) -> None:
    output = tmp_path / "vectors"
    run(encoder, corpus, output)
    assert EncodingSpec.load(sidecar(output)) == encoder.spec
    manifest = json.loads((tmp_path / "vectors.manifest.json").read_text())
    assert [part["documents"] for part in manifest["parts"]] == [8, 8, 8, 8, 8, 8, 2]
    for number, part in enumerate(manifest["parts"]):
        lines = (output / f"embeddings-{number:05d}.jsonl").read_bytes()
        assert (len(lines), hashlib.sha256(lines).hexdigest()) == (part["bytes"], part["sha256"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"corpus.jsonl", "vectors", "vectors.manifest.json", "vectors.encoding_spec.json"}


def test_the_text_is_written_only_when_asked_for(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> None:
    run(encoder, corpus, tmp_path / "with", contents=True)
    first = (tmp_path / "with" / "embeddings-00000.jsonl").read_text().splitlines()[0]
    assert list(json.loads(first)) == ["id", "contents", "vector"]


def test_stopped_at_any_file_it_goes_on_to_the_same_bytes(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops before and after each file is put in place: parts, records, report, spec and manifest."""
    replace, calls, stop_at = Path.replace, 0, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == stop_at // 2 and stop_at % 2 == 0:
            raise Stop
        result = replace(self, target)
        if calls == stop_at // 2:
            raise Stop
        return result

    monkeypatch.setattr(Path, "replace", counted)
    stops = 0
    for stop_at in range(2, 2 * (1 + 7 * 2 + 2) + 2, 3):
        output, calls = tmp_path / str(stop_at) / "vectors", 0
        output.parent.mkdir()
        with pytest.raises(Stop):
            run(encoder, corpus, output)
        stops, calls, before = stops + 1, -1000, stop_at
        report = run(encoder, corpus, output)
        assert content(output) == expected, f"stopped at {before}"
        assert report.documents == COUNT
    assert stops == 12


def test_what_is_done_is_not_encoded_again(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> None:
    half_done(encoder, corpus, tmp_path / "vectors")
    assert (tmp_path / "vectors.unfinished").is_dir()
    before = (tmp_path / "vectors" / "embeddings-00000.jsonl").stat()
    assert run(encoder, corpus, tmp_path / "vectors").encoded == COUNT - 2 * WINDOW
    after = (tmp_path / "vectors" / "embeddings-00000.jsonl").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_complete_run_does_nothing_and_says_so(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> None:
    run(encoder, corpus, tmp_path / "vectors")
    report = run(encoder, corpus, tmp_path / "vectors")
    assert (report.encoded, report.documents, report.finished) == (0, COUNT, True)


def test_a_copied_corpus_is_the_same_corpus(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> None:
    run(encoder, corpus, tmp_path / "vectors")
    os.utime(corpus, (1, 1))
    assert run(encoder, corpus, tmp_path / "vectors").encoded == 0
    assert not (tmp_path / "vectors.unfinished").exists()


@pytest.mark.parametrize("damage", ["cut off", "changed", "removed"])
def test_a_damaged_part_is_made_again(
    damage: str, encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "vectors"
    half_done(encoder, corpus, output)
    part = output / "embeddings-00001.jsonl"
    if damage == "removed":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-5] if damage == "cut off" else part.read_bytes().replace(b"d9", b"x9"))
    run(encoder, corpus, output)
    assert content(output) == expected


def test_a_part_that_was_removed_from_a_finished_output_is_made_again(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    output = tmp_path / "whole" / "vectors"
    (output / "embeddings-00003.jsonl").unlink()
    assert run(encoder, corpus, output).encoded == WINDOW
    assert content(output) == expected


@pytest.mark.parametrize("damage", [b"", b'{"window":1,"inp', b"[]"])
def test_a_damaged_record_costs_its_own_window_only(
    damage: bytes, encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "vectors"
    half_done(encoder, corpus, output)
    (tmp_path / "other" / "vectors.unfinished" / "part-00001.json").write_bytes(damage)
    assert run(encoder, corpus, output).encoded == COUNT - WINDOW
    assert content(output) == expected


def test_a_job_of_which_nothing_tells_whose_it_is_any_more_is_kept_until_asked(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "vectors"
    half_done(encoder, corpus, output)
    (tmp_path / "other" / "vectors.unfinished" / "job.json").write_bytes(b"")
    before = content(output)
    with pytest.raises(DataError, match=r"job\.json: damaged: .*; give --overwrite to start again"):
        run(encoder, corpus, output)
    assert content(output) == before
    run(encoder, corpus, output, overwrite=True)
    assert content(output) == expected


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_together_write_what_one_process_writes(
    order: tuple[int, ...], encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "sharded").mkdir()
    output = tmp_path / "sharded" / "vectors"
    finished = [run(encoder, corpus, output, shard_id=shard, shard_num=3).finished for shard in order]
    assert finished == [False, False, True]
    assert content(output) == expected


def test_shards_may_run_at_the_same_time(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "sharded").mkdir()
    output = tmp_path / "sharded" / "vectors"
    threads = [
        threading.Thread(target=run, args=(encoder, corpus, output), kwargs={"shard_id": shard, "shard_num": 2})
        for shard in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(output) == expected


def test_a_shard_that_ends_second_may_find_no_folder_for_its_lock(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed_in_between() -> None:
        raise FileNotFoundError("job.lock")

    identity = job_identity(encoder, corpus, None, False, WINDOW)
    second = JobState(tmp_path / "vectors", "1-of-2")
    monkeypatch.setattr(second._job_lock, "acquire", removed_in_between)
    run(encoder, corpus, tmp_path / "vectors", shard_id=0, shard_num=2)
    with pytest.raises(FileNotFoundError):  # nobody has ended the job
        second.finish(identity, 7)
    run(encoder, corpus, tmp_path / "vectors", shard_id=1, shard_num=2)
    found = second.finish(identity, 7)
    assert found is not None and found.documents == COUNT


def test_a_shard_that_comes_while_the_others_end_the_job_neither_fails_nor_opens_it_again(
    encoder: SparseEncoder,
    corpus: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All is done but the end, as after a failure of another shard; the last of them gets there first."""
    (tmp_path / "late").mkdir()
    output = tmp_path / "late" / "vectors"
    run(encoder, corpus, output, shard_id=0, shard_num=2)
    with monkeypatch.context() as patch:
        patch.setattr(JobState, "finish", lambda self, identity, count, made_by: None)
        run(encoder, corpus, output, shard_id=1, shard_num=2)
    take_over = JobState._take_over
    ended: list[bool | None] = []

    def slow(self: JobState, identity: Any) -> None:
        if not ended:
            ended.append(None)
            ended[0] = run(encoder, corpus, output, shard_id=1, shard_num=2).finished
        take_over(self, identity)

    monkeypatch.setattr(JobState, "_take_over", slow)
    assert run(encoder, corpus, output, shard_id=0, shard_num=2).finished
    assert ended == [True]
    assert content(output) == expected


def test_two_writers_of_one_shard_are_refused(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "vectors.unfinished").mkdir()
    with (
        FileLock(tmp_path / "vectors.unfinished" / "shard-0-of-1.lock"),
        pytest.raises(RunError, match="another process is writing it"),
    ):
        run(encoder, corpus, tmp_path / "vectors")


def test_what_any_shard_is_writing_is_not_overwritten(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> None:
    """Else the shard would go on, and parts of two jobs would end in one output."""
    run(encoder, corpus, tmp_path / "vectors", shard_id=1, shard_num=2)
    other = SparseEncoder.load(str(checkpoint("llama_causal")), device="cpu", document_top_k=5)
    before = content(tmp_path / "vectors")
    with (
        FileLock(tmp_path / "vectors.unfinished" / "shard-0-of-2.lock"),
        pytest.raises(RunError, match="another process is writing it"),
    ):
        run(other, corpus, tmp_path / "vectors", overwrite=True)
    found = content(tmp_path / "vectors")
    assert {name: found[name] for name in found if not name.endswith(".lock")} == {
        name: before[name] for name in before if not name.endswith(".lock")
    }
    run(other, corpus, tmp_path / "vectors", overwrite=True)
    assert EncodingSpec.load(sidecar(tmp_path / "vectors")).document_top_k == 5


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"window_size": 4}, "window_size is 4 here, 8 there"),
        ({"fields": ["text"]}, r"fields is \('text',\) here, None there"),
        ({"contents": True}, "contents is True here, False there"),
    ],
)
def test_another_job_on_the_same_output_is_refused_with_both_values(
    changed: dict[str, Any], said: str, finished: bool, encoder: SparseEncoder, corpus: Path, tmp_path: Path
) -> None:
    (run if finished else half_done)(encoder, corpus, tmp_path / "vectors")
    with pytest.raises(SpecMismatchError, match=f"{said}; restore them, choose another output, or give --overwrite"):
        run(encoder, corpus, tmp_path / "vectors", **changed)


def test_another_spec_is_refused_with_both_values(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> None:
    half_done(encoder, corpus, tmp_path / "vectors")
    other = SparseEncoder.load(str(checkpoint("llama_causal")), device="cpu", document_top_k=10)
    with pytest.raises(SpecMismatchError, match="document_top_k is 10 here, 20 there"):
        run(other, corpus, tmp_path / "vectors")
    run(other, corpus, tmp_path / "vectors", overwrite=True)
    assert EncodingSpec.load(sidecar(tmp_path / "vectors")).document_top_k == 10


def test_a_changed_corpus_is_refused_even_at_the_same_size(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path
) -> None:
    half_done(encoder, corpus, tmp_path / "vectors")
    corpus.write_bytes(corpus.read_bytes().replace(b'"d3"', b'"x3"'))
    with pytest.raises(
        SpecMismatchError, match=r"corpus\.jsonl:1: the records from here on are not those of embeddings-00000\.jsonl"
    ):
        run(encoder, corpus, tmp_path / "vectors")


def test_another_corpus_is_refused_with_both_named(
    encoder: SparseEncoder, corpus: Path, bad_corpus: Path, tmp_path: Path
) -> None:
    half_done(encoder, corpus, tmp_path / "vectors")
    said = r"it is bad\.jsonl \([\d,]+ bytes\) here, corpus\.jsonl \([\d,]+ bytes\) there"
    with pytest.raises(SpecMismatchError, match=said):
        run(encoder, bad_corpus, tmp_path / "vectors")
    lines = corpus.read_bytes().splitlines(keepends=True)
    corpus.write_bytes(b"".join(lines[:WINDOW]))
    with pytest.raises(SpecMismatchError, match=r"ends before the records of embeddings-00001\.jsonl"):
        run(encoder, corpus, tmp_path / "vectors")


def test_a_corpus_that_was_corrected_further_on_is_gone_on_with(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    good = corpus.read_bytes()
    corpus.write_bytes(good.replace(b'{"id": "d30"', b'{"name": "d30"'))
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "vectors"
    with pytest.raises(DataError, match=r"corpus\.jsonl:31: missing id"):
        run(encoder, corpus, output)
    corpus.write_bytes(good)
    report = run(encoder, corpus, output)
    assert (report.encoded, report.documents) == (COUNT - 3 * WINDOW, COUNT)
    assert {name: lines for name, lines in content(output).items() if "/" in name} == {
        name: lines for name, lines in expected.items() if "/" in name
    }


def test_overwriting_leaves_nothing_of_what_was_there(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "vectors"
    run(encoder, corpus, output, window_size=3)
    run(encoder, corpus, output, overwrite=True)
    assert content(output) == expected


def test_nothing_is_removed_before_the_new_job_can_begin(encoder: SparseEncoder, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "vectors"
    run(encoder, corpus, output)
    before = content(output)
    broken, empty = tmp_path / "broken.jsonl", tmp_path / "empty.jsonl"
    broken.write_bytes(b"{\n" + corpus.read_bytes())
    empty.touch()
    for bad in (broken, empty):
        with pytest.raises(DataError):
            run(encoder, bad, output, overwrite=True)
    model = Path(shutil.copytree(checkpoint("llama_causal"), tmp_path / "model"))
    unloaded = SparseEncoder.load(str(model), device="cpu")
    (model / "model.safetensors").write_bytes(b"damaged since")
    with pytest.raises(DataError, match="model"):
        run(unloaded, corpus, output, overwrite=True)
    assert content(output) == before


def test_a_folder_with_other_files_is_refused_since_lucene_would_read_them(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / ".notes").write_text("mine")
    with pytest.raises(UsageError, match=r"\.notes is not a file of vectors, and Lucene reads every file"):
        run(encoder, corpus, tmp_path / "vectors", overwrite=True)
    (tmp_path / "vectors" / ".notes").rename(tmp_path / "vectors" / "embeddings-00000.jsonl")
    with pytest.raises(UsageError, match="holds vectors of an unknown job"):
        run(encoder, corpus, tmp_path / "vectors")


def test_an_output_inside_the_corpus_is_refused(encoder: SparseEncoder, corpus: Path) -> None:
    with pytest.raises(UsageError, match="lies in the corpus"):
        run(encoder, corpus.parent, corpus.parent / "vectors")


BAD = {
    1: b'{"id": "broken"',
    3: b'{"contents": "no id"}',
    10: b'{"id": "good-9", "contents": "a second time"}',
    12: b'{"id": "empty", "contents": " "}',
    13: b'{"id": "surrogate", "contents": "\\udfff"}',
    14: b'{"id": "nul", "contents": "a\\u0000b"}',
    15: b'{"id": "not utf-8", "contents": "\xff"}',
    17: b'{"id": "good-2", "contents": "of an earlier window"}',
}


@pytest.fixture
def bad_corpus(tmp_path: Path) -> Path:
    lines = [BAD.get(number, b'{"id": "good-%d", "contents": "a text"}' % number) for number in range(1, 21)]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_the_first_bad_record_ends_the_run_and_what_came_before_is_kept(
    encoder: SparseEncoder, bad_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"bad\.jsonl:1: broken JSON"):
        run(encoder, bad_corpus, tmp_path / "vectors")
    bad_corpus.write_bytes(bad_corpus.read_bytes().replace(BAD[1], b"").replace(BAD[3], b""))
    with pytest.raises(DataError, match=r"bad\.jsonl:10: duplicate id \(id 'good-9'\)"):
        run(encoder, bad_corpus, tmp_path / "cleaned", window_size=4)
    assert [path.name for path in (tmp_path / "cleaned").iterdir()] == ["embeddings-00000.jsonl"]


def test_skipped_records_are_counted_and_reported_each_with_place_reason_and_remedy(
    encoder: SparseEncoder, bad_corpus: Path, tmp_path: Path
) -> None:
    report = run(encoder, bad_corpus, tmp_path / "vectors", on_error="skip")
    assert (report.documents, report.skipped) == (12, 8)
    assert report.skipped_path == tmp_path / "vectors.skipped.jsonl"
    entries = [json.loads(line) for line in report.skipped_path.read_text().splitlines()]
    assert [entry["line"] for entry in entries] == list(BAD)
    assert [entry["what"] for entry in entries] == [
        "broken JSON", "missing id", "duplicate id", "empty text", "lone surrogate in the text",
        "NUL character in the text", "invalid UTF-8", "duplicate id",
    ]  # fmt: skip
    assert all(entry["why"] and entry["remedy"] and entry["skipped"] for entry in entries)
    written = [
        json.loads(line)["id"]
        for path in sorted((tmp_path / "vectors").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert written == [f"good-{number}" for number in range(1, 21) if number not in BAD]


def test_a_run_that_failed_at_a_bad_record_may_go_on_by_skipping_it(
    encoder: SparseEncoder, bad_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError):
        run(encoder, bad_corpus, tmp_path / "vectors", window_size=1)
    report = run(encoder, bad_corpus, tmp_path / "vectors", window_size=1, on_error="skip")
    assert (report.documents, report.skipped) == (12, 8)


@pytest.fixture
def corpus_with_empty_texts(tmp_path: Path) -> Path:
    path = tmp_path / "some.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"e{n}", "contents": " " * n if n % 3 else "cells"}) + "\n" for n in range(9))
    )
    return path


def test_records_without_text_are_left_out_counted_and_listed_unless_asked_to_fail(
    encoder: SparseEncoder, corpus_with_empty_texts: Path, tmp_path: Path
) -> None:
    report = run(encoder, corpus_with_empty_texts, tmp_path / "vectors")
    assert (report.documents, report.skipped, report.without_text, report.empty) == (3, 6, 6, 0)
    assert report.bytes == (tmp_path / "vectors" / "embeddings-00000.jsonl").stat().st_size
    assert report.skipped_path is not None
    listed = [json.loads(line) for line in report.skipped_path.read_text().splitlines()]
    assert [(entry["id"], entry["line"], entry["what"]) for entry in listed] == [
        (f"e{number}", number + 1, "empty text") for number in (1, 2, 4, 5, 7, 8)
    ]
    again = run(encoder, corpus_with_empty_texts, tmp_path / "vectors")
    assert (again.encoded, again.without_text) == (0, 6)
    with pytest.raises(DataError, match=r"some\.jsonl:2: empty text \(id 'e1'\)"):
        run(encoder, corpus_with_empty_texts, tmp_path / "others", on_error="fail")


@pytest.mark.parametrize("on_error", ["skip-empty", "skip"])
def test_a_corpus_of_which_nothing_is_left_is_an_error(on_error: str, encoder: SparseEncoder, tmp_path: Path) -> None:
    path = tmp_path / "blank.jsonl"
    path.write_text('{"id": "1", "contents": ""}\n{"id": "2", "contents": " "}\n')
    with pytest.raises(DataError, match=r"none of its records can be encoded; the first: .*blank\.jsonl:1: empty text"):
        run(encoder, path, tmp_path / "vectors", on_error=on_error)


def test_a_shards_process_ends_in_silence_while_its_parent_still_holds_its_input_open(tmp_path: Path) -> None:
    job = {"encoder": str(tmp_path / "nowhere"), "loading": {"device": "cpu"}, "encoding": {}}
    command = [sys.executable, "-m", "pyserini_llm_sparse.indexing.vectors.shard"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=own_environment()) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        events = [json.loads(line) for line in process.stdout]
        assert process.wait() == 0
        assert process.stderr.read() == b""
    assert [list(event) for event in events] == [["error"]]


def test_documents_that_lose_their_end_are_counted(corpus: Path, tmp_path: Path, encoder: SparseEncoder) -> None:
    short = SparseEncoder.load(str(checkpoint("llama_causal")), device="cpu", document_max_length=4)
    lengths = [
        len(encoder.tokenization.token_ids([json.loads(line)["contents"]], "document")[0].ids)
        for line in corpus.read_text().splitlines()
    ]
    assert run(short, corpus, tmp_path / "vectors").truncated == sum(length > 4 for length in lengths) > 0
    assert run(encoder, corpus, tmp_path / "whole").truncated == 0


def test_a_document_without_any_term_is_written_and_reported(
    corpus: Path, tmp_path: Path, encoder: SparseEncoder
) -> None:
    every_id = tuple(range(len(encoder.vocabulary.terms)))
    none = SparseEncoder.load(str(checkpoint("llama_causal")), device="cpu", excluded_token_ids=every_id)
    report = run(none, corpus, tmp_path / "vectors")
    assert (report.documents, report.empty, report.skipped) == (COUNT, COUNT, 0)
    first = json.loads((tmp_path / "vectors.skipped.jsonl").read_text().splitlines()[0])
    assert (first["id"], first["what"], first["skipped"]) == ("d0", "empty vector", False)
    assert (tmp_path / "vectors" / "embeddings-00000.jsonl").read_text().splitlines()[0] == '{"id":"d0","vector":{}}'


def test_an_empty_corpus_is_an_error(encoder: SparseEncoder, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl: no records"):
        run(encoder, tmp_path / "empty.jsonl", tmp_path / "vectors")


def test_on_a_full_disk_it_ends_with_a_remedy_and_goes_on_when_there_is_space(
    encoder: SparseEncoder, corpus: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "vectors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = max(len(lines) for name, lines in expected.items() if "/embeddings" in name) - 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ResourceError, match=r"disk full: .*; free some space and give the same command again"):
            run(encoder, corpus, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in output.parent.rglob("*") if path.name.endswith(".tmp")]
    assert list(output.iterdir()), "what fitted is kept"
    run(encoder, corpus, output)
    assert content(output) == expected


@pytest.mark.parametrize(
    "options", [{"shard_id": 2, "shard_num": 2}, {"batch_size": 0}, {"overwrite": True, "shard_num": 2}]
)
def test_arguments_that_make_no_sense_are_refused(
    options: dict[str, Any], encoder: SparseEncoder, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        run(encoder, corpus, tmp_path / "vectors", **options)
    assert not (tmp_path / "vectors").exists()
