"""The result of a recipe with systems of all kinds, made up: small files where its steps would have left them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.regressions.outcome.results import Result
from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.run.layout import EXPLAIN, EXPLAINED, FAISS, LUCENE, MEASURE, MEASURED
from pyserini_llm_sparse.regressions.run.plan import CollectionPlan, plan_recipe
from pyserini_llm_sparse.regressions.runner import score_collection

HOSTILE = "</script><script>document.title = 'broken'</script><!-- <img src=x onerror=alert(1)> & \"quotes\""
ENDING_A_LINE = "\u2028"  # ends a line of JavaScript, not one of JSON
WORDS = (
    "how",
    "do",
    "wings",
    "carry",
    "planes",
    "over",
    "cold",
    "rivers",
    "why",
    "is",
    "東京",
    "warmer",
    "than",
    "Köln",
)
RELEVANT = 4  # documents of a query
RECIPE: dict[str, Any] = {
    "title": "A comparison <of> systems",
    "about": "Numbers that mean nothing & hold no <b>markup</b>.",
    "collections": {"first": {"beir": "first"}, "second": {"beir": "second"}},
    "systems": {
        "bm25": {"kind": "bm25"},
        "bm25-rm3": {"kind": "bm25", "rm3": True},
        "csplade": {"kind": "csplade"},
        "csplade-int8": {"kind": "csplade", "precision": "int8"},
        "csplade-model-queries": {"kind": "csplade", "query_encoder": "model"},
        "splade": {"kind": "splade", "model": "org/splade"},
        "dense": {"kind": "dense", "model": "org/dense", "dimension": 4},
        "dense-hnsw": {"kind": "dense", "model": "org/dense", "dimension": 4, "index": "hnsw"},
        "published": {"kind": "run", "path": "run.txt"},
        "bm25+dense": {"kind": "fusion", "of": ["bm25", "dense"]},
        "bm25+csplade": {"kind": "fusion", "of": ["bm25", "csplade"]},
    },
    "means": {"both": ["first", "second"]},
    "budgets": {"first": {"csplade": {"index_bytes": 1, "seconds": 10**6}}},
    "measures": ["nDCG@10", "RR@10", "R@100", "AP"],
}
BROKEN = "csplade-int8"  # on the second collection


def made_up_result(folder: Path, queries: int = 40) -> Result:
    """Return a result whose files are in a folder."""
    recipe = Recipe.model_validate(RECIPE)
    chance = random.Random(11)
    plans = plan_recipe(recipe, folder, folder / "work", 1)
    records: dict[Any, dict[str, Any]] = {}
    collections = {}
    for plan in plans:
        texts = _write_collection(plan, queries, chance)
        skill = {system: 0.35 + 0.3 * chance.random() for system in plan.systems}
        hardness = {query: chance.random() for query in texts}
        for step in plan.steps:
            records[step] = {
                "title": step.title, "key": f"{chance.getrandbits(256):064x}", "command": step.shown(),
                "seconds": round(400 * chance.random() ** 3, 3), "peak_bytes": chance.randrange(10**8, 10**10),
            }  # fmt: skip
        records[plan.prepared] |= {
            "documents": 5183, "without text": 2, "queries": queries, "judgements": RELEVANT * queries,
            "peak_bytes": None,
        }  # fmt: skip
        for system in plan.systems:
            ranked = {
                query: _ranking(query, 0.6 * skill[system] + 0.4 * (1 - hardness[query]), chance) for query in texts
            }
            _write_index(plan, system, chance)
            _write_run(plan.run(system), ranked, _write_details(plan, system, ranked, chance))
        broken = plan.systems[BROKEN][-1]
        problems = {broken: "the export <failed>"} if plan.name == "second" else {}
        collections[plan.name] = score_collection(recipe, plan, records, problems)
    return Result(recipe, collections, records, 3, 100.0, 2.0)


def _write_collection(plan: CollectionPlan, queries: int, chance: random.Random) -> dict[str, str]:
    texts = {f"q{number:03}": " ".join(chance.sample(WORDS, chance.randrange(3, 14))) for number in range(queries)}
    texts["q000"], texts["q001"] = HOSTILE, f"one{ENDING_A_LINE}line"
    plan.prepared.folder.mkdir(parents=True)
    plan.topics.write_text("".join(f"{query}\t{text}\n" for query, text in texts.items()), encoding="utf-8")
    plan.qrels.write_text(
        "".join(f"{query} 0 {query}-{number} {min(number, 2)}\n" for query in texts for number in range(RELEVANT + 1))
    )
    return texts


def _ranking(query: str, quality: float, chance: random.Random) -> list[str]:
    """Return documents; more of the judged ones, and earlier, for more quality."""
    ranked = [f"other-{chance.randrange(5000)}" for _ in range(60)]
    for number in range(RELEVANT + 1):
        if chance.random() < quality + 0.2:
            ranked.insert(int(20 * chance.random() ** (6 * quality + 0.2)), f"{query}-{number}")
    return list(dict.fromkeys(ranked))


def _write_run(path: Path, ranked: dict[str, list[str]], scores: dict[tuple[str, str], int]) -> None:
    """Write a ranking; documents whose scores are not given have any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(
        f"{query} Q0 {document} {rank} {scores.get((query, document), 1000 - rank)} made-up\n"
        for query, documents in ranked.items() for rank, document in enumerate(documents, 1)
    ))  # fmt: skip


def _write_index(plan: CollectionPlan, system: str, chance: random.Random) -> None:
    for step in plan.systems[system][-1].after:
        for name in (LUCENE, FAISS):
            (step.folder / name).mkdir(parents=True, exist_ok=True)
        (step.folder / LUCENE / "segment").write_bytes(bytes(chance.randrange(2_000, 90_000)))


def _write_details(
    plan: CollectionPlan, system: str, ranked: dict[str, list[str]], chance: random.Random
) -> dict[tuple[str, str], int]:
    """Write measurements and explanations. Returns the scores that are explained, by query and document."""
    scores = {}
    for step in plan.details[system]:
        step.folder.mkdir(parents=True, exist_ok=True)
        if step.folder.name == MEASURE:
            typical = 4 + 60 * chance.random() ** 2
            found = {
                "latency_ms": {query: typical * chance.lognormvariate(0, 0.3) for query in ranked},
                "postings": None if "dense" in system else chance.randrange(600_000, 4_000_000),
                "model_bytes": None if "bm25" in system else chance.randrange(20_000_000, 900_000_000),
            }
            (step.folder / MEASURED).write_text(json.dumps(found))
        elif step.folder.name == EXPLAIN:
            unit = 0.00917 if "bm25" in system else 1
            explained = [_explanation(query, documents, chance, unit) for query, documents in ranked.items()]
            (step.folder / EXPLAINED).write_text("".join(f"{json.dumps(one)}\n" for one in explained))
            scores = {(one["query"], found["id"]): found["score"] for one in explained for found in one["documents"]}
    return scores


def _explanation(query: str, documents: list[str], chance: random.Random, unit: float) -> dict[str, Any]:
    """Write why documents have scores; impacts are whole numbers, weights of BM25 are not."""
    words = ["wing", "plane", "flight", "##ing", "Ġriver", "東京", "<b>", "aerofoil", "lift", "cold", "warm", "night"]
    terms = sorted(
        ([f"{word}{number}", chance.randrange(1, 255), int(number < 5)] for number, word in enumerate(words * 3)),
        key=lambda term: -int(term[1]),
    )
    scores = []
    for rank, document in [*enumerate(documents[:3], 1), (len(documents), documents[-1])]:
        shared = [[term, weight, unit * chance.randrange(1, 255), own] for term, weight, own in terms[:20]]
        shared.sort(key=lambda each: -each[1] * each[2])
        products = [ofquery * ofdocument for _, ofquery, ofdocument, _ in shared]
        scores.append({
            "id": document, "rank": rank, "score": sum(products), "shared": len(shared), "contributions": shared[:12],
            "rest": sum(products[12:]),
        })  # fmt: skip
    return {"query": query, "term_count": 70, "terms": terms, "documents": scores}
