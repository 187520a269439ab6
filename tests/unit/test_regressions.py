"""Recipes are checked line by line, planned without doing anything twice, and scored as the field does."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.errors import DataError, ResourceError, RunError
from pyserini_llm_sparse.files.work import held
from pyserini_llm_sparse.regressions.outcome.costs import Costs, held_against
from pyserini_llm_sparse.regressions.outcome.results import Result
from pyserini_llm_sparse.regressions.outcome.scores import (
    Judgements,
    holm,
    interval,
    judged,
    mean_scores,
    score_systems,
)
from pyserini_llm_sparse.regressions.recipe.fields import Budget, CollectionSource, Expected, load_recipe
from pyserini_llm_sparse.regressions.run.collection import DOCUMENTS, QRELS, TOPICS, Collection
from pyserini_llm_sparse.regressions.run.plan import CollectionPlan, plan_recipe
from pyserini_llm_sparse.regressions.run.steps import Step
from pyserini_llm_sparse.regressions.runner import run_recipe

RECIPE = """\
title: A comparison
collections:
  small: {beir: small}
systems:
  bm25: {kind: bm25}
  rm3: {kind: bm25, rm3: true}
  csplade: {kind: csplade}
  model: {kind: csplade, query_encoder: model}
  int8: {kind: csplade, precision: int8}
  fused: {kind: fusion, of: [bm25, csplade]}
expected:
  small:
    bm25: {nDCG@10: 0.5, AP: {score: .3, tolerance: 0.01, source: published}}
"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("before", "after", "line", "message"),
    [
        ("kind: bm25}", "kind: bm2}", 5, "systems.bm25: Input tag 'bm2'"),
        ("title:", "titel:", 1, "titel: no such field"),
        ("rm3: true", "rm3: perhaps", 6, "systems.rm3.rm3"),
        ("kind: csplade}", "kind: csplade, k1: 3}", 7, "systems.csplade.k1: no such field"),
        ("query_encoder: model", "query_encoder: mode", 8, "systems.model.query_encoder"),
        ("[bm25, csplade]", "[bm25, later]", 10, "systems.fused.of: no earlier system later"),
        ("{beir: small}", "{irds: a, beir: small}", 3, "collections.small: name one source"),
        ("nDCG@10: 0.5", "nDCG@7: 0.5", 13, "expected.small.bm25.nDCG@7: not among the measures"),
        ("  small:\n    bm25", "  large:\n    bm25", 12, "expected.large: no such collection"),
        ("  rm3:", "  ../rm3:", 4, "'../rm3': letters, digits"),
        ("  rm3:", "  bm25:", 6, "bm25: given twice"),
        ("title: A comparison", "title: A comparison\nbaseline: none", 2, "baseline: no system none"),
        ("title: A comparison", "title: A comparison\nmeasures: [nDGC@10]", 2, "nDGC@10: ir_measures has no such"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_with_its_line(
    before: str, after: str, line: int, message: str, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path, RECIPE.replace(before, after, 1))
    with pytest.raises(DataError) as caught:
        load_recipe(path)
    assert f"{path}:{line}: " in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_recipe_is_refused_in_a_few_words(tmp_path: Path) -> None:
    text = "model: x\noutput: y\nattention: causal\n" + "".join(f"field{number}: 1\n" for number in range(13))
    with pytest.raises(DataError, match=r"recipe\.yaml: not a recipe: it has neither collections nor systems; "):
        load_recipe(write_recipe(tmp_path, text))
    with pytest.raises(DataError) as caught:
        load_recipe(write_recipe(tmp_path, RECIPE + text))
    assert str(caught.value).count("no such field") == 4 and str(caught.value).endswith("; and 12 more mistakes")


def test_an_expected_score_may_say_where_it_comes_from(tmp_path: Path) -> None:
    expected = load_recipe(write_recipe(tmp_path)).expected["small"]["bm25"]
    assert expected["nDCG@10"] == Expected(score=0.5)
    assert expected["AP"] == Expected(score=0.3, tolerance=0.01, source="published")


def test_recipes_that_are_shipped_are_valid(root: Path) -> None:
    recipes = sorted((root / "examples" / "regressions").glob("*.yaml"))
    assert recipes
    for path in recipes:
        plan_recipe(load_recipe(path), path.parent, Path("work"), 1)


def planned(folder: Path, only: list[str] | None = None) -> CollectionPlan:
    """Plan the recipe in a folder without collection or models: none of them is looked at."""
    (plan,) = plan_recipe(load_recipe(write_recipe(folder)), folder, folder / "work", 2, only)
    return plan


def test_what_several_systems_need_is_one_step(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    titles = [step.title for step in plan.steps]
    assert sum("index the texts" in title for title in titles) == 2  # feedback needs more in an index
    assert sum("encode the documents" in title for title in titles) == 2  # torch and int8
    assert plan.systems["csplade"][:-1] == plan.systems["model"][:-1]
    for system in ("bm25", "csplade"):
        assert [step.folder.name for step in plan.details[system]] == ["measure", "explain"]
    assert plan.details["fused"] == ()
    assert plan.systems["fused"][-1].after[1:] == (plan.systems["bm25"][-1], plan.systems["csplade"][-1])
    assert all(plan.steps.index(before) < plan.steps.index(step) for step in plan.steps for before in step.after)


def test_one_system_alone_is_planned_with_what_it_needs(tmp_path: Path) -> None:
    assert {step.folder.parent.name for step in planned(tmp_path, ["fused"]).steps[1:]} == {"bm25", "csplade", "fused"}
    assert len(planned(tmp_path, ["bm25"]).steps) == 5


def test_commands_are_pyserini_s_and_name_where_things_will_be(tmp_path: Path) -> None:
    shown = [step.shown() for step in planned(tmp_path, ["model"]).steps]
    work = tmp_path / "work" / "small"
    assert shown[0] == ""  # the collection is laid out by this package
    assert shown[1].startswith(f"python -m pyserini.encode input --corpus {work}/_collection/corpus output")
    # What it shares with another system is where that one looks for it.
    assert f"--embeddings {work}/csplade/vectors/json " in shown[1] and shown[1].endswith("csplade --batch-size 64")
    assert f"--index {work}/csplade/index/lucene" in shown[3] and "csplade,query_encoder=model" in shown[3]


OTHER_SYSTEMS = """\
title: Other systems
train:
  bert-splade:
    command: [examples.bert_splade, --data, "{data}/train", --output, "{folder}/model"]
    minutes: 30 minutes
collections:
  dev: {corpus: corpus.jsonl, topics: dev.tsv, qrels: dev.qrels}
  other: {topics: dl19-passage, qrels: dl19-passage, documents_of: dev}
systems:
  splade: {kind: splade, model: "trained:bert-splade"}
  splade-ours: {kind: csplade, encoder: "csplade:trained:bert-splade,document_max_length=512"}
  bm25: {kind: bm25, prebuilt: msmarco-v1-passage}
  dense: {kind: dense, model: org/dense, index: lucene-hnsw}
  tct: {kind: dense, model: org/tct, encoder_class: tct_colbert, prebuilt: msmarco-v1-passage.tct}
  theirs: {kind: run, path: "runs/{collection}.txt"}
budgets:
  dev: {splade: {index_bytes: 1000}}
"""


def other_plans(folder: Path, only: list[str] | None = None) -> list[CollectionPlan]:
    path = write_recipe(folder, OTHER_SYSTEMS)
    return plan_recipe(load_recipe(path), folder, folder / "work" / "recipe", 1, only)


def test_what_was_done_before_is_in_the_report_whatever_is_asked_for(tmp_path: Path) -> None:
    """Nothing runs here: two systems are rankings of something else, and the third is never looked at."""
    (tmp_path / "runs").mkdir()
    for name in ("one", "two"):
        (tmp_path / "runs" / f"{name}.txt").write_text("q1 Q0 1 1 2.0 tag\n")
    (folder := beir(tmp_path) / "recipe").mkdir()
    path = write_recipe(folder, OF_OTHERS)

    def run(*only: str) -> Result:
        recipe = load_recipe(path)
        return run_recipe(recipe, plan_recipe(recipe, tmp_path, tmp_path / "work", 1, only), lambda text: None)

    first, second = run("one"), run("two")
    assert list(first.collections["small"].scores) == ["one"]
    assert list(second.collections["small"].scores) == ["one", "two"] and second.ran == 1
    assert not second.problems and len(second.steps) == 3
    (tmp_path / "runs" / "one.txt").unlink()
    assert list(run("two").collections["small"].scores) == ["two"]


OF_OTHERS = """\
title: Rankings of others
collections: {small: {beir: small}}
systems:
  one: {kind: run, path: runs/one.txt}
  two: {kind: run, path: runs/two.txt}
  three: {kind: csplade, encoder: "csplade:org/none"}
"""


TRAINED_FOR_NOTHING = """\
title: Training
train: {tiny: {command: [slow], minutes: 25 minutes}}
collections: {one: {beir: nowhere}, two: {beir: neither}}
systems: {ours: {kind: csplade, encoder: "csplade:trained:tiny"}}
"""


def test_nothing_is_trained_for_collections_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow.py").write_text("import pathlib; pathlib.Path('trained').touch()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(write_recipe(tmp_path, TRAINED_FOR_NOTHING))
    noted: list[str] = []
    result = run_recipe(recipe, plan_recipe(recipe, tmp_path, tmp_path / "work" / "recipe", 1), noted.append)
    assert not (tmp_path / "trained").exists() and noted == [] and result.ran == 0
    assert "nowhere" in result.collections["one"].problems["ours"]
    assert "neither" in result.collections["two"].problems["ours"]
    (beir(tmp_path) / "small").rename(tmp_path / "neither")
    run_recipe(recipe, plan_recipe(recipe, tmp_path, tmp_path / "work" / "recipe", 1), noted.append)
    assert (tmp_path / "trained").exists()


def test_documents_that_collections_share_are_indexed_once(tmp_path: Path) -> None:
    dev, other = other_plans(tmp_path)
    assert other.documents is dev.prepared and other.prepared is not dev.prepared
    assert dev.prepared in other.systems["splade"]
    for system in ("splade", "splade-ours", "dense"):
        assert [one for one in other.systems[system] if one.folder.name in ("vectors", "index")] == [
            one for one in dev.systems[system] if one.folder.name in ("vectors", "index")
        ]
        assert other.systems[system][-1] is not dev.systems[system][-1]


def test_a_model_that_a_recipe_trains_is_trained_once_and_only_where_it_is_needed(tmp_path: Path) -> None:
    plans = other_plans(tmp_path)
    training = {step for plan in plans for step in plan.steps if step.folder.parent.name == "_trained"}
    (step,) = training
    model = tmp_path / "work" / "_trained" / "bert-splade" / "model"
    assert step.shown() == f"python -m examples.bert_splade --data {tmp_path}/train --output {model}"
    assert "30 minutes" in step.title
    encodings = [one.shown() for one in plans[0].steps if "pyserini.encode" in one.shown()]
    assert f"--encoder {model} --encoder-class splade --max-length 256" in encodings[0]
    assert f"csplade:{model},document_max_length=512" in encodings[1]
    assert all(step not in plan.steps for plan in other_plans(tmp_path, ["bm25", "dense"]) for step in training)


def test_an_index_that_is_there_is_searched_by_its_name(tmp_path: Path) -> None:
    dev, _ = other_plans(tmp_path)
    assert "--index msmarco-v1-passage " in dev.systems["bm25"][-1].shown()
    assert [step.folder.name for step in dev.systems["tct"]] == ["_collection", "search"]
    assert dev.details["tct"] == () and [step.folder.name for step in dev.details["bm25"]] == ["measure"]


def test_a_ranking_of_something_else_is_a_system(tmp_path: Path) -> None:
    dev, _ = other_plans(tmp_path)
    taken = dev.systems["theirs"][-1]
    with pytest.raises(ResourceError, match=r"runs/dev\.txt: no such run"):
        _ = taken.key
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "dev.txt").write_text("q Q0 d 1 1.0 tag\n")
    (again,) = {plan.systems["theirs"][-1] for plan in other_plans(tmp_path)[:1]}
    again.run()
    assert dev.run("theirs").read_text() == "q Q0 d 1 1.0 tag\n"


def test_a_compressed_ranking_is_taken_decompressed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    path = write_recipe(tmp_path, OTHER_SYSTEMS.replace("{collection}.txt", "{collection}.gz"))
    (tmp_path / "runs" / "dev.gz").write_bytes(gzip.compress(b"q Q0 d 1 1.0 tag\n"))
    dev, _ = plan_recipe(load_recipe(path), tmp_path, tmp_path / "work", 1)
    dev.systems["theirs"][-1].run()
    assert dev.run("theirs").read_text() == "q Q0 d 1 1.0 tag\n"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('trained:bert-splade"}', 'trained:none-splade"}', "trains no model none-splade"),
        ("documents_of: dev", "documents_of: later", "no earlier collection later"),
        ("budgets:", "means: {both: [dev, third]}\nbudgets:", "means.both: no collection or earlier mean third"),
        ('trained:bert-splade"}', 'org/bert"}', "by the word splade"),
        ("index_bytes: 1000", "bytes: 1000", "bytes"),
        ("dev: {splade: {index", "dev: {none: {index", "budgets.dev.none: no such system"),
    ],
)
def test_a_reference_to_nothing_is_refused(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in OTHER_SYSTEMS
    with pytest.raises(DataError) as caught:
        load_recipe(write_recipe(tmp_path, OTHER_SYSTEMS.replace(before, after, 1)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_costs_are_held_against_a_budget() -> None:
    costs = Costs(documents_per_second=9.0, index_bytes=2000)
    assert held_against(costs, Budget(documents_per_second=10, index_bytes=1000, postings=1)) == {
        "documents_per_second": ("FAIL", 9, "at least", 10), "index_bytes": ("FAIL", 2000, "at most", 1000),
    }  # fmt: skip
    within = held_against(costs, Budget(documents_per_second=9, index_bytes=2000))
    assert [one.verdict for one in within.values()] == ["OK", "OK"]


BEIR = [{"_id": str(number), "title": f"T{number}", "text": f"text\n{number}"} for number in range(3)]


def beir(folder: Path) -> Path:
    """Write a small collection in BEIR's layout, of whose queries one is not judged."""
    (folder / "small" / "qrels").mkdir(parents=True)
    with gzip.open(folder / "small" / "corpus.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in [*BEIR, {"_id": "3", "title": "", "text": " "}])
    queries = [{"_id": "q1", "text": "one\ttab\nand line"}, {"_id": "q2", "text": "not judged"}]
    (folder / "small" / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (folder / "small" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t2\t0\n")
    return folder


def test_a_collection_is_laid_out_for_pyserini(tmp_path: Path) -> None:
    collection = Collection(CollectionSource(beir=Path("small")), beir(tmp_path))
    assert collection.write(tmp_path / "out") == {
        "documents": 3, "without text": 1, "queries": 1, "judgements": 2,
    }  # fmt: skip
    documents = (tmp_path / "out" / DOCUMENTS).read_text().splitlines()
    assert json.loads(documents[1]) == {"id": "1", "contents": "T1 text 1"}
    assert (tmp_path / "out" / TOPICS).read_text() == "q1\tone tab and line\n"
    assert (tmp_path / "out" / QRELS).read_text() == "q1 0 1 2\nq1 0 2 0\n"


def test_ids_of_queries_that_pyserini_would_change_are_refused(tmp_path: Path) -> None:
    folder = beir(tmp_path) / "small"
    for name in ("queries.jsonl", "qrels/test.tsv"):
        (folder / name).write_text((folder / name).read_text().replace("q1", "01"))
    with pytest.raises(DataError, match="id '01' of a topic: Pyserini writes it without the zeros"):
        Collection(CollectionSource(beir=Path("small")), tmp_path).write(tmp_path / "out")


def test_the_digest_of_a_collection_is_that_of_its_content(tmp_path: Path) -> None:
    source = CollectionSource(beir=Path("small"))
    before = Collection(source, beir(tmp_path)).digest()
    assert Collection(source, beir(tmp_path / "copy")).digest() == before
    with (tmp_path / "small" / "qrels" / "test.tsv").open("a") as stream:
        stream.write("q1\t0\t1\n")
    assert Collection(source, tmp_path).digest() != before
    with pytest.raises(ResourceError, match="no such corpus"):
        Collection(source, tmp_path / "nowhere").digest()


def archive(folder: Path, source: Path, name: str = "made", **options: object) -> Step:
    """Return a step that packs a file with a command of Python's own."""
    command = ("zipfile", "-c", "{folder}/archive.zip", str(source))
    contents = {"source": source.read_text}
    return Step("pack", folder / name, command, contents=contents, **options)  # type: ignore[arg-type]


def test_a_step_is_done_once_for_the_same_inputs(tmp_path: Path) -> None:
    (source := tmp_path / "source").write_text("content")
    assert archive(tmp_path, source).record() is None
    record = archive(tmp_path, source).run()
    assert (tmp_path / "made" / "archive.zip").is_file() and record["seconds"] > 0
    assert record["peak_bytes"] is None or record["peak_bytes"] > 1_000_000
    assert archive(tmp_path, source).record() == record
    source.write_text("other content")
    assert archive(tmp_path, source).record() is None and archive(tmp_path, source).earlier_seconds() is not None


def test_a_step_whose_output_was_changed_or_lost_is_done_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source := tmp_path / "source").write_text("content")
    step = archive(tmp_path, source)
    step.run()
    made = step.folder / "archive.zip"
    whole = made.read_bytes()
    for spoil in (lambda: made.write_bytes(whole[:-1]), lambda: made.write_bytes(whole[:-1] + b"x"), made.unlink):
        spoil()
        caplog.clear()
        assert step.record() is None
        assert f"{made}: is missing or changed: it counts as not made (pack)" in caplog.text
        assert archive(tmp_path, source).run() == step.record()
        assert zipfile.is_zipfile(made)


def test_a_step_is_not_done_if_its_output_is_not_what_it_should_be(tmp_path: Path) -> None:
    (source := tmp_path / "source").write_text("content")
    with pytest.raises(RunError, match=r"pack: exit code 1: .*No such file"):
        archive(tmp_path, source, check=("zipfile", "-t", "{folder}/other.zip")).run()
    checked = archive(tmp_path, source, check=("zipfile", "-t", "{folder}/archive.zip"))
    assert checked.record() is None
    checked.run()
    assert "Done testing" in (tmp_path / "made" / "log.txt").read_text()
    assert not (tmp_path / "made.log.txt").exists()


def test_an_input_that_is_named_by_the_command_may_be_moved(tmp_path: Path) -> None:
    def packing(source: Path) -> Step:
        command = ("zipfile", "-c", "{folder}/archive.zip", str(source))
        return Step("pack", tmp_path / "made", command, contents={str(source): source.read_text})

    for name in ("here", "there"):
        (tmp_path / name).write_text("content")
    packing(tmp_path / "here").run()
    assert packing(tmp_path / "there").record() is not None
    (tmp_path / "there").write_text("other content")
    assert packing(tmp_path / "there").record() is None


def test_what_depends_on_a_changed_input_is_done_again_and_nothing_else(tmp_path: Path) -> None:
    (source := tmp_path / "source").write_text("content")
    (other := tmp_path / "other").write_text("content")

    def steps() -> list[Step]:
        first, second = archive(tmp_path, source), archive(tmp_path, other, "second")
        after = ("zipfile", "-e", str(first.folder / "archive.zip"), "{folder}")
        return [first, second, Step("unpack", tmp_path / "third", after, (first,))]

    for step in steps():
        step.run()
    assert [step.record() is not None for step in steps()] == [True, True, True]
    source.write_text("changed")
    assert [step.record() is not None for step in steps()] == [False, True, False]


def test_a_step_that_resumes_goes_on_with_what_it_left_for_the_same_inputs(tmp_path: Path) -> None:
    def step(archive: str, resumes: bool) -> Step:
        command = ("zipfile", "-e", str(tmp_path / archive), "{folder}")
        return Step("unpack", tmp_path / "made", command, resumes=resumes)

    for resumes, other, kept in ((True, "one.zip", True), (True, "two.zip", False), (False, "one.zip", False)):
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
        with pytest.raises(RunError):
            step("one.zip", resumes).run()  # it is not there yet
        (tmp_path / "made.unfinished" / "left").write_text("half of it")
        with zipfile.ZipFile(tmp_path / other, "w") as packed:
            packed.writestr("content", "content")
        step(other, resumes).run()
        assert (tmp_path / "made" / "left").is_file() == kept and (tmp_path / "made" / "content").is_file()
        assert not (tmp_path / "made" / "step.key").exists()
        (tmp_path / other).unlink()


def test_a_second_process_leaves_an_unfinished_step_alone(tmp_path: Path) -> None:
    (source := tmp_path / "source").write_text("content")
    unfinished = tmp_path / "made.unfinished"
    unfinished.mkdir()
    (unfinished / "half").touch()
    with held(tmp_path / "made", tmp_path / "made.lock"):  # as the first one has it
        with pytest.raises(RunError, match=r"made: another process is writing it: .*made\.lock is locked"):
            archive(tmp_path, source).run()
        assert (unfinished / "half").exists() and not (tmp_path / "made").exists()
    archive(tmp_path, source).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source"]


def test_a_second_regress_on_one_work_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(
        "title: t\ncollections: {one: {beir: small}}\nsystems: {bm25: {kind: bm25}}\nmeasures: [nDCG@10]\n"
    )
    beir(tmp_path)
    folder = tmp_path / "work" / "small"
    with held(folder, folder / "regress.lock"):
        assert main(["regress", str(tmp_path / "small.yaml"), "--work", str(tmp_path / "work")]) == 6
    assert "small: another process is writing it: " in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["regress.lock"]


def test_what_another_process_did_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    (source := tmp_path / "source").write_text("content")
    first, second = archive(tmp_path, source), archive(tmp_path, source)
    assert second.record() is None
    assert first.run() == second.run() == second.record()


@pytest.mark.parametrize("where", ["before it is put in place", "after it is put in place"])
def test_a_step_that_was_killed_at_its_end_is_not_taken_for_something_else(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(content: str) -> Step:
        command = ("zipfile", "-c", "{folder}/archive.zip", str(tmp_path / "source"))
        return Step("pack", tmp_path / "made", command, contents={"source": lambda: content}, resumes=True)

    def killed(self: Path, target: Path) -> Path:
        if self.name != "made.unfinished":
            return replace(self, target)
        if where.startswith("after"):
            replace(self, target)
        raise KeyboardInterrupt

    (tmp_path / "source").write_text("content")
    step("old").run()
    replace = Path.replace
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        step("new").run()
    assert step("old").record() is None
    assert (step("new").record() is not None) == where.startswith("after")
    assert step("new").run() == step("new").record()
    assert (tmp_path / "made" / "archive.zip").is_file() and not (tmp_path / "made.unfinished").exists()


def test_a_step_tells_how_far_its_command_says_that_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyserini_llm_sparse.regressions.run.steps.WATCHED_EVERY", 0.05)
    program = "import time; print(' 45%|####      | 9/20 [00:10<00:12,  1.2s/it]', flush=True); time.sleep(1)"
    (tmp_path / "slow.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told: list[str] = []
    Step("slow", tmp_path / "made", ("slow",)).run(told.append)
    assert set(told) == {"45 %, 00:12 left"}


def test_a_step_without_a_progress_bar_tells_how_long_it_has_been_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyserini_llm_sparse.regressions.run.steps.WATCHED_EVERY", 0.05)
    monkeypatch.setattr("pyserini_llm_sparse.regressions.run.steps.SILENT_AT_FIRST", 0.5)
    (tmp_path / "slow.py").write_text("import time; time.sleep(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told: list[str] = []
    Step("slow", tmp_path / "made", ("slow",)).run(told.append)
    assert told and all(text in ("0 s so far", "1 s so far", "2 s so far") for text in told)


def test_a_step_that_fails_leaves_what_was_there_and_its_log(tmp_path: Path) -> None:
    (source := tmp_path / "source").write_text("content")
    archive(tmp_path, source).run()
    broken = Step("pack", tmp_path / "made", ("zipfile", "-e", str(tmp_path / "none"), "{folder}"))
    with pytest.raises(RunError, match=r"pack: exit code 1: .*none.*made\.log\.txt has all"):
        broken.run()
    assert (tmp_path / "made" / "archive.zip").is_file()


def test_scores_are_judged_by_their_distance(tmp_path: Path) -> None:
    expected = Expected(score=0.679, tolerance=0.001)
    assert [judged(score, expected) for score in (0.6789, 0.6799, 0.684, 0.67, 0.66)] == [
        "OK", "OK", "OKish", "OKish", "FAIL",
    ]  # fmt: skip


def test_a_query_without_an_answer_counts_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("a 0 1 1\nb 0 1 1\n")
    (tmp_path / "run").write_text("a Q0 2 1 2.0 t\na Q0 1 2 1.0 t\nother Q0 1 1 1.0 t\n")
    judgements = Judgements(tmp_path / "qrels")
    found = judgements.values(tmp_path / "run", ["RR@10", "AP"])
    assert judgements.queries == ["a", "b"]
    np.testing.assert_allclose(found["RR@10"], [0.5, 0])
    np.testing.assert_allclose(found["AP"], [0.5, 0])


def test_a_mean_is_held_against_what_is_expected_of_it() -> None:
    one, two = (score_systems({"a": {"AP": np.array([value])}}, "a", {}) for value in (0.2, 0.4))
    found = mean_scores([one, two], {"a": {"AP": Expected(score=0.3)}})
    assert found["a"]["AP"].mean == pytest.approx(0.3) and found["a"]["AP"].verdict == "OK"
    assert mean_scores([one, {}], {}) == {}


def test_p_values_are_corrected_for_their_number() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.5]), [0.04, 0.09, 0.09, 0.5])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_difference_beyond_chance_is_told_from_one_within() -> None:
    chance = np.random.default_rng(3)
    base = chance.random(200)
    values = {
        "base": {"AP": base},
        "better": {"AP": base + 0.05 + 0.01 * chance.standard_normal(200)},
        "same": {"AP": base},
        "noisy": {"AP": base + 0.2 * chance.standard_normal(200)},
    }
    scores = score_systems(values, "base", {"base": {"AP": Expected(score=float(base.mean()))}})
    assert scores["base"]["AP"].p_value is None and scores["base"]["AP"].verdict == "OK"
    assert scores["better"]["AP"].p_value < 1e-6 and scores["better"]["AP"].is_better  # type: ignore[operator]
    assert scores["same"]["AP"].p_value == 1 and scores["noisy"]["AP"].p_value > 0.05  # type: ignore[operator]
    low, high = interval(base)
    assert low < base.mean() < high and interval(base) == (low, high)
    # a mean's interval is about 1.96 standard errors wide on each side
    assert (high - low) / 2 == pytest.approx(1.96 * base.std() / 200**0.5, rel=0.1)
