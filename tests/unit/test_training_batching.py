"""Batches hold what is promised, draws depend on seed, epoch and example alone, and equal texts are kept apart."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.checkpoint import load_checkpoint
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.data.batching import (
    EpochExample,
    ExampleDataset,
    RetrievalCollator,
    StreamedExamples,
    length_groups,
)
from pyserini_llm_sparse.training.data.drawing import draw, usable_examples
from pyserini_llm_sparse.training.data.examples import Example, example_line, text_key
from pyserini_llm_sparse.training.data.sampling import EpochSampler
from tests.checkpoints import checkpoint

# torch warns of more workers than there are cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def config(**fields: Any) -> RetrieveConfig:
    given = {"output": Path("unused"), "model": "unused", "train": ("unused",), "seed": 3, **fields}
    return RetrieveConfig(**{"document_max_length": 32, "query_max_length": 16, **given})


def collator(**fields: Any) -> RetrievalCollator:
    settings = config(**fields)
    model = load_checkpoint(parse_encoder_name(str(checkpoint("llama_causal"))))
    return RetrievalCollator(Tokenization(model.tokenizer, settings.encoding_spec(), model.vocabulary_size), settings)


def example(number: int = 0, positives: int = 1, negatives: int = 5, **fields: Any) -> Example:
    return Example(
        f"the query {number}",
        tuple(f"The wing {number} {place}." for place in range(positives)),
        tuple(f"A plane {number} far away {place}." for place in range(negatives)),
        source="train.jsonl",
        line=number + 1,
        **fields,
    )


def test_texts_are_grouped_from_the_longest_to_the_shortest_and_each_group_ends_with_its_longest() -> None:
    lengths = [3, 9, 1, 9, 4, 2, 8, 5, 7, 6]
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    found = length_groups("document", mask, 2)
    order = found["document_order"].tolist()
    assert sorted(order) == list(range(10)) and [lengths[row] for row in order] == sorted(lengths, reverse=True)
    assert order[:2] == [1, 3], "equal lengths keep their order"
    assert found["document_widths"] == [9, 5]


@pytest.mark.parametrize(("texts", "groups"), [(3, 0), (7, 0), (8, 2), (15, 3), (16, 4), (100, 4)])
def test_the_number_of_groups_follows_from_the_number_of_texts_alone(texts: int, groups: int) -> None:
    """Else sharded models, all of whose processes take part in each forward pass, would wait for ever."""
    for longest in (1, 30):
        found = length_groups("query", torch.ones(texts, longest, dtype=torch.long), 4)
        assert len(found.get("query_widths", ())) == groups


def test_gradient_caching_groups_by_itself() -> None:
    examples = [example(number) for number in range(8)]
    assert "document_widths" in collator(negatives=1)(examples)
    assert "document_widths" not in collator(negatives=1, length_groups=1)(examples)
    assert "document_widths" not in collator(negatives=1, gradient_cache_size=4)(examples)


# the collator ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["causal", "echo", "bidirectional"])
def test_a_batch_holds_each_query_with_its_positive_first_tokenised_as_the_encoder_does(attention: str) -> None:
    make = collator(negatives=2, attention=attention, document_prefix="passage: ")
    given = [example(number) for number in range(3)]
    batch = make(given)
    groups = [make.group(each, 0).documents for each in given]
    documents = [text for group in groups for text in group]
    for side, texts in (("query", [each.query for each in given]), ("document", documents)):
        expected = make.tokenization.batch(make.tokenization.token_ids(texts, side))
        for name, tensor in zip(("input_ids", "attention_mask", "pool_mask"), expected, strict=True):
            assert torch.equal(batch[f"{side}_{name}"], tensor)
            assert tensor.dtype == torch.int64
    assert [group[0] for group in groups] == [each.positives[0] for each in given]
    assert all(set(group[1:]) <= set(each.negatives) for each, group in zip(given, groups, strict=True))
    assert batch["document_keys"].tolist() == [text_key(text) for text in documents]
    assert batch["query_keys"].tolist() == [text_key(each.query) for each in given]
    assert batch["positive_keys"].tolist() == [[text_key(each.positives[0])] for each in given]
    assert "teacher_scores" not in batch
    assert len(batch) == 11


def test_without_negatives_a_query_has_its_positive_alone() -> None:
    batch = collator(negatives=0)([example(0, negatives=0), example(1)])
    assert batch["document_input_ids"].shape[0] == 2
    assert batch["document_keys"].tolist() == [text_key("The wing 0 0."), text_key("The wing 1 0.")]


def test_a_query_brings_the_keys_of_all_its_positives_those_of_other_examples_too() -> None:
    data = ExampleDataset([
        example(0, positives=3), example(1), Example("the query 0", ("Another wing.",), ("A plane.",))
    ])  # fmt: skip
    batch = collator(negatives=1)([data[number] for number in range(3)])
    first = {text_key(text) for text in (*example(0, positives=3).positives, "Another wing.")}
    assert [set(row) for row in batch["positive_keys"].tolist()] == [first, {text_key("The wing 1 0.")}, first]
    assert batch["positive_keys"].shape == (3, 4) and batch["positive_keys"].diff(dim=1).ge(0).all()


def test_keys_are_the_same_in_each_process_and_fit_63_bits() -> None:
    # blake2b-64 of the UTF-8 bytes, little endian, without the lowest bit
    assert text_key("The wing 0 0.") == 4632865567954111084
    assert text_key("Köln") != text_key("Koln")
    assert all(0 <= text_key(str(number)) < 2**63 for number in range(200))


def test_what_is_drawn_depends_on_seed_epoch_and_example_only() -> None:
    make, again = collator(negatives=2), collator(negatives=2)
    alone, together = make([example(4)]), again([example(7), example(4), example(9)])
    assert together["document_keys"].view(3, 3)[1].tolist() == alone["document_keys"].tolist()
    drawn = {tuple(collator(negatives=2, seed=seed).group(example(4), 0).documents) for seed in range(20)}
    assert len(drawn) > 5


def test_the_epoch_of_an_example_goes_before_the_collators() -> None:
    make = collator(negatives=2)
    later = make([EpochExample(example(), 1)])["document_keys"]
    assert later.tolist() != make([example()])["document_keys"].tolist()
    make.set_epoch(1)
    assert later.tolist() == make([example()])["document_keys"].tolist()


def test_epochs_go_through_all_negatives_and_positives_before_one_comes_again() -> None:
    make, given = collator(negatives=2), example(positives=3, negatives=6)
    groups = [make.group(given, epoch).documents for epoch in range(3)]
    assert Counter(group[0] for group in groups) == Counter(given.positives)
    assert Counter(text for group in groups for text in group[1:]) == Counter(given.negatives)


def test_too_few_negatives_are_repeated_evenly() -> None:
    make, given = collator(negatives=5), example(negatives=2)
    assert sorted(Counter(make.group(given, 0).documents[1:]).values()) == [2, 3]


def test_an_example_without_negatives_names_its_line_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"^train\.jsonl:5: no negatives: .*`train mine`"):
        collator(negatives=2, in_batch_negatives=False)([example(1), example(4, negatives=0)])


def test_pairs_may_stand_among_triplets_and_are_filled_up_with_their_positive() -> None:
    batch = collator(negatives=2)([example(1, negatives=2), example(4, negatives=0)])
    assert batch["document_keys"].view(2, 3)[1].tolist() == [text_key("The wing 4 0.")] * 3
    scored = example(0, negatives=0, positive_scores=(7.0,))
    batch = collator(negatives=2, objective="contrastive+distillation")([scored])
    assert batch["teacher_scores"].tolist() == [[7.0, 7.0, 7.0]]


def test_teacher_scores_stand_beside_the_documents_that_were_drawn() -> None:
    make = collator(negatives=2, objective="distillation")
    given = example(positives=2, positive_scores=(10.0, 11.0), negative_scores=(0.0, 1.0, 2.0, 3.0, 4.0))
    for epoch in range(4):
        batch = make([EpochExample(given, epoch)])
        group = make.group(given, epoch)
        expected = [10.0 + given.positives.index(group.documents[0])]
        expected += [float(given.negatives.index(text)) for text in group.documents[1:]]
        assert batch["teacher_scores"].tolist() == [expected]
        assert batch["teacher_scores"].dtype == torch.float32


@pytest.mark.parametrize("scores", [{}, {"positive_scores": (1.0,)}])
def test_missing_teacher_scores_name_the_line_and_the_remedy(scores: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"^train\.jsonl:1: (no teacher scores|1 of 6).*: .*`train score`"):
        collator(negatives=1, objective="contrastive+distillation")([example(**scores)])


def test_scores_that_are_missing_are_found_before_training_and_refused_or_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unknown = math.nan
    given = [
        example(0, negatives=3, positive_scores=(9.0,), negative_scores=(1.0, unknown, 3.0)),
        example(1, positives=2, negatives=1, positive_scores=(unknown, 8.0), negative_scores=(1.0,)),
        example(2, negatives=1),
        example(3, negatives=1, positive_scores=(unknown,), negative_scores=(1.0,)),
        example(4, negatives=2, positive_scores=(5.0,), negative_scores=(unknown, unknown)),
    ]
    refusing = config(objective="distillation", negatives=2)
    with pytest.raises(DataError, match=r"^train\.jsonl:1: 3 of 4 documents have .*: .*missing_scores: drop"):
        ExampleDataset(given, partial(usable_examples, config=refusing))
    dropping = config(objective="distillation", negatives=2, missing_scores="drop")
    data = ExampleDataset(given, partial(usable_examples, config=dropping))
    assert [each.line for each in data.examples] == [1, 2]
    assert "3 examples without a teacher's score are left out" in caplog.text
    groups = [draw(each, epoch, dropping) for each in data.examples for epoch in range(4)]
    assert all(math.isfinite(score) for group in groups for score in group.scores)
    assert {group.documents[0] for group in groups[4:]} == {"The wing 1 1."}  # the other one has no score
    assert len(list(usable_examples(given, config=config(negatives=1)))) == 5  # which asks for no scores


def test_what_is_left_out_is_known_to_be_relevant_all_the_same() -> None:
    given = [example(1, negatives=1), Example("the query 1", ("Not drawn.",))]
    settings = config(negatives=1, in_batch_negatives=False)
    data = ExampleDataset(given, partial(usable_examples, config=settings))
    assert len(data) == 1
    assert text_key("Not drawn.") in data[0].positive_keys


def test_too_few_negatives_and_none_are_said_once_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    given = [example(0, negatives=5), example(1, negatives=2), example(2, negatives=0)]
    assert len(list(usable_examples(given, config=config(negatives=3)))) == 3
    assert "1 examples have fewer than 3 different negatives; each of these counts once" in caplog.text
    assert "1 of 3 examples have no negative of their own" in caplog.text
    assert len(list(usable_examples(given, config=config(negatives=3, in_batch_negatives=False)))) == 2
    assert "1 examples without a negative are left out" in caplog.text
    with pytest.raises(DataError, match="none of 1 examples has a negative"):
        list(usable_examples(given[2:], config=config(negatives=3)))


def test_a_text_without_a_token_is_not_passed_over() -> None:
    with pytest.raises(DataError, match=r"a document without tokens"):
        collator()([Example("a query", (" ",))])


def test_inference_free_queries_pool_their_own_terms_only() -> None:
    make = collator(query_encoder="inference-free", query_prefix="query: ")
    batch = make([example(0)])
    own = make.tokenization.token_ids(["the query 0"], "query")[0]
    assert batch["query_pool_mask"].sum() == len(own.pool) < len(own.ids)


# datasets and order ---------------------------------------------------------------------------------------------------


def dataset(number: int = 40) -> ExampleDataset:
    """Examples of which every fourth has the query, and every fifth the positive, of others."""
    return ExampleDataset(
        Example(f"q{number if number % 4 else 0}", (f"p{number if number % 5 else 0}",)) for number in range(number)
    )


def blocks(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_equal_documents_are_held_once() -> None:
    held = ExampleDataset(Example("q", (f"p{n % 2}",), (f"n{k}" for k in range(2))) for n in range(4))  # type: ignore[arg-type]
    assert len({id(text) for each in held.examples for text in each.negatives}) == 2
    assert held.examples[2].negatives == ("n0", "n1")


def test_no_examples_are_an_error() -> None:
    with pytest.raises(DataError, match="no training examples"):
        ExampleDataset([])


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_block_has_no_text_twice_and_an_epoch_has_each_example_once(epoch: int) -> None:
    data = dataset()
    sampler = data.sampler(seed=1, block=4)
    sampler.set_epoch(epoch)
    numbers = [data.place(index)[1] for index in sampler]
    assert sorted(numbers) == list(range(40))
    assert [data.place(index)[0] for index in sampler] == [epoch] * 40
    for block in blocks(numbers, 4):
        texts = [text for number in block for text in (data.examples[number].query, data.examples[number].positives[0])]
        assert len(set(texts)) == 8
    plain = [data.place(index)[1] for index in EpochSampler(data, 1)]
    assert any(len({data.examples[number].query for number in block}) < 4 for block in blocks(plain, 4))


def test_texts_too_frequent_to_be_kept_apart_are_spread_evenly() -> None:
    data = ExampleDataset(Example(f"q{n}", ("p" if n < 30 else f"p{n}",)) for n in range(60))
    numbers = list(data.sampler(seed=1, block=6))
    assert sorted(numbers) == list(range(60))
    shares = [sum(data.examples[number].positives == ("p",) for number in block) for block in blocks(numbers, 6)]
    assert shares == [3] * 10


def test_the_order_is_another_in_each_epoch_and_with_each_seed_but_never_else() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        data = dataset()
        sampler = data.sampler(seed, block=4)
        sampler.set_epoch(epoch)
        return [index % 40 for index in sampler]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2, -3) for epoch in (0, 1)}) == 6


def _numbers(batch: list[EpochExample]) -> list[tuple[str, str, int]]:
    return [(each.example.query, each.example.positives[0], each.epoch) for each in batch]


def _loader(data: ExampleDataset, processes: int, process: int, workers: int = 0) -> Any:
    loader = DataLoader(
        data, batch_size=2, sampler=data.sampler(1, 2 * processes), collate_fn=_numbers, num_workers=workers
    )
    return prepare_data_loader(loader, num_processes=processes, process_index=process, put_on_device=False)


def test_two_processes_share_a_block_without_equal_texts() -> None:
    first, second = (list(_loader(dataset(), 2, process)) for process in (0, 1))
    single = list(_loader(dataset(), 1, 0))
    assert len(first) == len(second) == 10
    for own, other in zip(first, second, strict=True):
        assert len({text for query, positive, _ in own + other for text in (query, positive)}) == 8
    everything = [each for batch in first + second for each in batch]
    assert Counter(everything) == Counter(each for batch in single for each in batch)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_with_the_same_batches(processes: int, workers: int) -> None:
    whole = _loader(dataset(), processes, 0)
    epochs = []
    for epoch in range(2):
        whole.set_epoch(epoch)
        epochs.append(list(whole))
    assert {epoch for batch in epochs[1] for _, _, epoch in batch} == {1}
    resumed = skip_first_batches(_loader(dataset(), processes, 0, workers), 3)
    resumed.set_epoch(1)
    assert list(resumed) == epochs[1][3:]


# streams --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> str:
    for name, number in (("a.jsonl", 100), ("b.jsonl", 20)):
        content = b"".join(example_line(Example(f"{name} {line}", ("p",))) for line in range(number))
        (tmp_path / name).write_bytes(content)
    return str(tmp_path)


def queries(stream: StreamedExamples) -> list[str]:
    return [each.example.query for each in stream]


def test_a_stream_gives_each_example_once_mixed_from_all_files(files: str) -> None:
    found = queries(StreamedExamples([files], seed=1, buffer=8))
    assert len(set(found)) == len(found) == 120
    half = Counter(query[0] for query in found[:60])
    assert 4 <= half["b"] <= 16  # about a sixth
    lines = [int(query.split()[1]) for query in found if query[0] == "a"]
    assert lines != sorted(lines)


def test_the_order_of_a_stream_is_that_of_seed_and_epoch(files: str) -> None:
    stream = StreamedExamples([files], seed=1, buffer=8)
    first = queries(stream)
    assert first == queries(stream)
    stream.set_epoch(1)
    assert [each.epoch for each in stream] == [1] * 120
    assert queries(stream) != first
    assert queries(StreamedExamples([files], seed=2, buffer=8)) != first


def test_a_stream_leaves_out_what_a_run_cannot_learn_from_and_says_so_in_the_first_pass(
    files: str, caplog: pytest.LogCaptureFixture
) -> None:
    (Path(files) / "c.jsonl").write_bytes(example_line(Example("scored", ("p",), ("n",), (2.0,), (1.0,))))
    settings = config(objective="distillation", negatives=1, missing_scores="drop")
    stream = StreamedExamples([files], 1, 8, partial(usable_examples, config=settings))
    for epoch in range(2):
        stream.set_epoch(epoch)
        assert queries(stream) == ["scored"]
    assert caplog.text.count("120 examples without a teacher's score") == 1


def test_processes_and_workers_share_a_stream_without_overlap(files: str) -> None:
    found: list[str] = []
    for process in (0, 1):
        loader = DataLoader(StreamedExamples([files], 1, 8), batch_size=3, collate_fn=_numbers, num_workers=2)
        sharded = prepare_data_loader(
            loader, num_processes=2, process_index=process, put_on_device=False, dispatch_batches=False
        )
        found += [query for batch in sharded for query, _, _ in batch]
    assert Counter(found) == Counter(queries(StreamedExamples([files], 1, 8)))
