"""The training objectives against their formulas in plain loops over float64, and against sentence-transformers."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from pyserini_llm_sparse.training.config.fields import RetrieveConfig  # noqa: E402
from pyserini_llm_sparse.training.objectives import regularisation  # noqa: E402
from pyserini_llm_sparse.training.objectives.lexical import (  # noqa: E402
    bm25_weights,
    lexical_error,
    with_gradient_below_zero,
)
from pyserini_llm_sparse.training.objectives.negatives import (  # noqa: E402
    above_margin,
    holds,
    not_negatives,
    own_not_negatives,
    own_repeated,
    repeated,
)
from pyserini_llm_sparse.training.objectives.pruning import keep_top  # noqa: E402
from pyserini_llm_sparse.training.objectives.ranking import RetrievalObjective  # noqa: E402

# --- the formulas, one number at a time -------------------------------------------------------------------------------


def dot(query, document):
    return sum(a * b for a, b in zip(query, document, strict=True))


def softmax(scores):
    total = sum(torch.exp(score) for score in scores)
    return [torch.exp(score) / total for score in scores]


def loop_info_nce(config, queries, documents, query_keys, document_keys, judged):
    """`judged`: for each row the keys of its query's positives."""
    each, total = len(documents) // len(queries), 0.0
    for row, query in enumerate(queries):
        relevant = set().union(*(judged[other] for other, key in enumerate(query_keys) if key == query_keys[row]))
        rivals, counted = [], set()
        for column, document in enumerate(documents):
            key, own = document_keys[column], column // each == row
            if column == row * each:
                rivals.append(torch.exp(dot(query, document) / config.score_temperature))
            elif key not in relevant and key not in counted and (own or config.in_batch_negatives):
                counted.add(key)
                rivals.append(torch.exp(dot(query, document) / config.score_temperature))
        total = total - torch.log(torch.exp(dot(query, documents[row * each]) / config.score_temperature) / sum(rivals))
    return total / len(queries)


def loop_distillation(config, queries, documents, document_keys, teacher):
    each, total, terms = len(documents) // len(queries), 0.0, 0
    for row, query in enumerate(queries):
        keys = document_keys[row * each : (row + 1) * each]
        student = [dot(query, document) for document in documents[row * each : (row + 1) * each]]
        places = [place for place in range(each) if keys[place] not in keys[:place]]
        if config.distillation == "margin-mse":
            for negative in places[1:]:
                margin = (student[0] - student[negative]) / config.score_temperature
                expected = (teacher[row][0] - teacher[row][negative]) / config.teacher_temperature
                total = total + (margin - expected) ** 2
                terms += 1
        else:
            expected = softmax([teacher[row][place] / config.teacher_temperature for place in places])
            found = softmax([student[place] / config.score_temperature for place in places])
            total = total + sum(p * torch.log(p / q) for p, q in zip(expected, found, strict=True))
            terms += 1
    return total / max(terms, 1) + 0 * sum(map(sum, (*queries, *documents)))


def loop_regulariser(kind, vectors, threshold=None):
    total = 0.0
    if threshold is not None:
        many = [sum(bool(weight > 0) for weight in vector) > threshold for vector in vectors]
        vectors = [[weight * kept for weight in vector] for vector, kept in zip(vectors, many, strict=True)]
    for column in zip(*vectors, strict=True):
        mean = sum(column) / len(vectors)
        if kind == "l1":
            total = total + mean
        elif kind == "flops":
            total = total + mean**2
        else:
            share = sum(bool(weight > 0) for weight in column) / len(vectors)
            penalty = 1 / (1 + (share ** math.log(2, 0.1) - 1) ** 10) if share else 0.0
            total = total + (penalty * mean) ** 2
    return total


def loop_top(kind, vector, terms):
    if terms is None or terms >= len(vector):
        return vector
    ranked = sorted(range(len(vector)), key=lambda term: -float(vector[term].detach()))
    if kind == "hard":
        return [weight if term in ranked[:terms] else 0 * weight.detach() for term, weight in enumerate(vector)]
    first_dropped = vector[ranked[terms]]
    return [torch.relu(weight - first_dropped) for weight in vector]


def loop_objective(config, queries, documents, query_keys, document_keys, judged, teacher, ramp):
    """The whole objective over tensors of float64, taken apart into numbers; differentiable."""
    if isinstance(config.training_top_k, tuple):
        budgets = [config.model_copy(update={"training_top_k": terms}) for terms in config.training_top_k]
        losses = [
            loop_objective(one, queries, documents, query_keys, document_keys, judged, teacher, ramp) for one in budgets
        ]
        parts = {name: sum(part[name] for _, part in losses) / len(losses) for name in losses[0][1]}
        return sum(loss for loss, _ in losses) / len(losses), parts
    queries, documents = (
        [loop_top(config.training_top_k_kind, list(vector), config.training_top_k) for vector in vectors]
        for vectors in (queries, documents)
    )
    parts = {}
    if config.uses_contrast:
        contrast = loop_info_nce(config, queries, documents, query_keys.tolist(), document_keys.tolist(), judged)
        parts["contrastive"] = config.contrastive_weight * contrast
    if config.uses_teacher:
        distilled = loop_distillation(config, queries, documents, document_keys.tolist(), teacher)
        parts["distillation"] = config.distillation_weight * distilled
    for side, texts in (("query", queries), ("document", documents)):
        weight, threshold = (getattr(config, f"{side}_regulariser_{name}") for name in ("weight", "threshold"))
        if weight:
            parts[f"{side}_regulariser"] = weight * ramp * loop_regulariser(config.regulariser, texts, threshold)
    return sum(parts.values()), parts


# --- examples ---------------------------------------------------------------------------------------------------------


def run_file(**fields):
    return RetrieveConfig(**{"output": "result", "model": "model", "train": ("train",), "negatives": 2, **fields})


def vectors(count, dimensions, generator):
    """Weights of which about 40 % are 0, no two others alike."""
    weights = torch.rand(count, dimensions, generator=generator, dtype=torch.float64)
    return torch.relu(weights - 0.4) * 2


def judged(given, seed=0):
    """The keys of each query's positives: the one that is drawn, and up to three more that the batch may hold."""
    generator = torch.Generator().manual_seed(seed + 1)
    keys, count = given["document_keys"].tolist(), len(given["query_keys"])
    more = torch.randint(0, len(keys), (count, 3), generator=generator).tolist()
    return [
        {keys[row * (len(keys) // count)], *(keys[place] for place in more[row][: row % 4])} for row in range(count)
    ]


def relevant(document_keys, sets):
    return torch.tensor([[key in one for key in document_keys.tolist()] for one in sets])


def batch(queries=4, negatives=2, dimensions=6, seed=0, texts=None):
    """Vectors, keys and a teacher's scores; with few `texts`, documents and queries repeat."""
    generator = torch.Generator().manual_seed(seed)
    count = queries * (1 + negatives)
    given = {
        "queries": vectors(queries, dimensions, generator),
        "documents": vectors(count, dimensions, generator),
        "query_keys": torch.randint(0, texts or 2**62, (queries,), generator=generator),
        "document_keys": torch.randint(-(2**62), 2**62, (count,), generator=generator)
        if texts is None
        else torch.randint(0, texts, (count,), generator=generator),
        "teacher_scores": torch.randn(queries, 1 + negatives, generator=generator, dtype=torch.float64) * 3,
    }
    return with_relevant(given, [{key} for key in given["document_keys"].tolist()[:: 1 + negatives]])


def with_relevant(given, sets):
    """Say that these keys are all that is relevant to each query."""
    return {**given, "relevant": relevant(given["document_keys"], sets)}


def with_gradient(given, dtype=torch.float64):
    return {
        name: given[name].detach().to(dtype).requires_grad_() if name in ("queries", "documents") else given[name]
        for name in given
    }


def check(config, given, ramp=0.6, dtype=torch.float64, tolerance=1e-10):
    """Hold value, parts and gradient of our objective against the loops."""
    sets = judged(given)
    given = with_relevant(given, sets)
    exact, ours = with_gradient(given), with_gradient(given, dtype)
    expected, expected_parts = loop_objective(
        config,
        exact["queries"],
        exact["documents"],
        given["query_keys"],
        given["document_keys"],
        sets,
        given["teacher_scores"],
        ramp,
    )
    loss, parts = RetrievalObjective(config)(**ours, ramp=ramp)
    close = {"atol": tolerance, "rtol": tolerance}
    assert parts.keys() == expected_parts.keys()
    torch.testing.assert_close(loss.double(), torch.as_tensor(expected, dtype=torch.float64), **close)
    for name, part in parts.items():
        assert not part.requires_grad
        torch.testing.assert_close(part.double(), torch.as_tensor(expected_parts[name]).detach().double(), **close)
    torch.testing.assert_close(sum(parts.values()), loss.detach())
    expected_gradients = torch.autograd.grad(expected, (exact["queries"], exact["documents"]))
    found_gradients = torch.autograd.grad(loss, (ours["queries"], ours["documents"]))
    for found, reference in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found.double(), reference, **close)


PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
RANKING = {
    "in-batch": {},
    "own negatives only": {"in_batch_negatives": False},
    "low temperature": {"temperature": 0.3},
    "margin-mse": {"objective": "distillation", "distillation": "margin-mse"},
    "margin-mse of cosines": {
        "objective": "distillation",
        "distillation": "margin-mse",
        "representation": "dense",
        "temperature": 0.3,
        "teacher_temperature": 2.0,
    },
    "kl": {"objective": "distillation", "temperature": 0.7, "teacher_temperature": 2.0},
    "contrastive + kl": {
        "objective": "contrastive+distillation",
        "contrastive_weight": 0.3,
        "distillation_weight": 2.0,
        "temperature": 1.5,
    },
    "own negatives + margin-mse": {
        "objective": "contrastive+distillation",
        "distillation": "margin-mse",
        "in_batch_negatives": False,
    },
    "dense": {"representation": "dense", "objective": "contrastive+distillation", "temperature": 0.5},
}


# --- the objectives ---------------------------------------------------------------------------------------------------


@PRECISIONS
@pytest.mark.parametrize("ranking", sorted(RANKING))
def test_ranking_losses_equal_their_formulas(ranking, dtype, tolerance):
    config = run_file(**RANKING[ranking])
    check(config, batch(), dtype=dtype, tolerance=tolerance)
    check(config, batch(texts=4, seed=1), dtype=dtype, tolerance=tolerance)


@PRECISIONS
@pytest.mark.parametrize("regulariser", ["flops", "l1", "df-flops"])
@pytest.mark.parametrize(
    ("terms", "kind", "threshold"),
    [
        (None, "hard", None),
        (None, "hard", 5),
        (2, "hard", None),
        (2, "soft", None),
        (50, "soft", None),
        ((1, 3, None), "hard", 4),
        ((1, 2), "soft", None),
    ],
)
def test_regularisers_and_pruning_equal_their_formulas(regulariser, terms, kind, threshold, dtype, tolerance):
    config = run_file(
        regulariser=regulariser,
        query_regulariser_weight=0.3,
        document_regulariser_weight=0.7,
        training_top_k=terms,
        training_top_k_kind=kind,
        query_regulariser_threshold=threshold,
        document_regulariser_threshold=None if threshold is None else threshold + 1,
    )
    check(config, batch(dimensions=9), dtype=dtype, tolerance=tolerance)


@settings(max_examples=40)
@given(
    queries=st.integers(1, 4),
    negatives=st.integers(0, 3),
    dimensions=st.integers(1, 6),
    texts=st.sampled_from([None, 2, 5]),
    objective=st.sampled_from(["contrastive", "distillation", "contrastive+distillation"]),
    distillation=st.sampled_from(["kl", "margin-mse"]),
    in_batch=st.booleans(),
    regulariser=st.sampled_from(["flops", "l1", "df-flops"]),
    ramp=st.sampled_from([0.0, 0.25, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_any_shape_gives_the_formula(
    queries, negatives, dimensions, texts, objective, distillation, in_batch, regulariser, ramp, seed
):
    fields = {"objective": objective, "distillation": distillation, "in_batch_negatives": in_batch}
    if not negatives:
        fields = {"objective": "contrastive"}
    config = run_file(
        negatives=negatives,
        regulariser=regulariser,
        query_regulariser_weight=0.1,
        document_regulariser_weight=0.2,
        **fields,
    )
    check(config, batch(queries, negatives, dimensions, seed, texts), ramp=ramp)


@pytest.mark.parametrize("drawn", [True, False], ids=["the positive that is drawn", "one that is not"])
def test_a_judged_positive_is_no_negative_wherever_in_the_batch_it_comes_from(drawn):
    given = with_gradient(batch(queries=2, negatives=1))
    given["document_keys"] = torch.tensor([7 if drawn else 8, 1, 2, 7])  # the second query's negative is the first's 7
    given["relevant"] = relevant(given["document_keys"], [{7, 8}, {2}])
    loss, _ = RetrievalObjective(run_file(negatives=1))(**given, ramp=0.0)
    given["queries"].retain_grad()
    loss.backward()
    others = given["documents"].detach()[[0, 1, 2]]
    scores = given["queries"].detach()[0] @ others.T
    expected = scores.softmax(0) @ others - others[0]
    torch.testing.assert_close(given["queries"].grad[0], expected / 2)


def test_the_positives_of_one_query_in_two_rows_do_not_push_each_other_away():
    documents = torch.tensor([10, 11, 20, 21, 30, 20])
    found = not_negatives(torch.tensor([5, 5, 6]), documents, relevant(documents, [{10}, {20}, {30}]))
    assert found.tolist() == [
        [False, False, True, False, False, True],  # 20 is a positive of the same query, wherever it stands
        [True, False, False, False, False, True],
        [False, False, False, False, False, True],  # to the third query it is a negative, but not twice
    ]


@given(
    st.lists(st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=4)
)
def test_sets_hold_what_they_hold(sets):
    most = max(map(len, sets))
    rows = [sorted(one) + [max(one)] * (most - len(one)) for one in sets]
    keys = [*range(10), *(key for one in sets for key in one)]
    assert holds(torch.tensor(rows), torch.tensor(keys)).tolist() == [[key in one for key in keys] for one in sets]


@given(st.lists(st.integers(0, 4), max_size=9))
def test_of_equal_keys_the_first_counts(keys):
    assert repeated(torch.tensor(keys, dtype=torch.long)).tolist() == [
        key in keys[:place] for place, key in enumerate(keys)
    ]


def test_no_step_waits_for_the_device():
    """On torch's device without data nothing can be looked at; there the shapes must follow from the batch's alone."""
    given = {name: tensor.to("meta") for name, tensor in batch().items()}
    positives = torch.zeros(4, 3, dtype=torch.long, device="meta")
    relevant = holds(positives, given["document_keys"])
    relevant |= above_margin(given["document_keys"], given["teacher_scores"], 1.0)
    keys = (given["query_keys"], given["document_keys"], relevant)
    assert not_negatives(*keys).shape == (4, 12) and own_not_negatives(*keys).shape == (4, 3)
    assert own_repeated(4, given["document_keys"]).shape == (4, 3)


@pytest.mark.parametrize("ranking", sorted(RANKING))
def test_a_document_that_stands_in_a_batch_several_times_counts_once(ranking):
    """Two negatives where four were wanted, so that both come twice: the loss is that of two."""
    twice = batch(queries=3, negatives=4)
    place = torch.tensor([0, 1, 2, 1, 2])
    for name in ("documents", "document_keys"):
        rows = twice[name].view(3, 5, -1)[:, place]
        twice[name] = rows.reshape(15, -1).squeeze(1) if name == "document_keys" else rows.reshape(15, -1)
    twice["teacher_scores"] = twice["teacher_scores"][:, place]
    once = {name: twice[name] for name in ("queries", "query_keys")}
    once["documents"] = twice["documents"].view(3, 5, -1)[:, :3].reshape(9, -1)
    once["document_keys"] = twice["document_keys"].view(3, 5)[:, :3].reshape(-1)
    once["teacher_scores"] = twice["teacher_scores"][:, :3]
    sets = [{key} for key in once["document_keys"].tolist()[::3]]
    objective = RetrievalObjective(run_file(**RANKING[ranking]))
    found, expected = (objective(**with_relevant(given, sets), ramp=0.0)[0] for given in (twice, once))
    torch.testing.assert_close(found, expected)


def test_a_query_without_any_negative_left_costs_nothing():
    given = with_gradient(batch(queries=2, negatives=0))
    given["document_keys"] = torch.tensor([3, 3])
    given["relevant"] = torch.ones(2, 2, dtype=torch.bool)
    loss, _ = RetrievalObjective(run_file(negatives=0))(**given, ramp=0.0)
    loss.backward()
    assert loss.item() == 0
    assert given["queries"].grad.eq(0).all()


@pytest.mark.parametrize("in_batch", [True, False])
def test_what_the_teacher_holds_for_relevant_is_no_negative_wherever_it_stands(in_batch):
    given = batch(queries=3, negatives=2)
    given["document_keys"] = torch.tensor([10, 11, 12, 20, 11, 22, 30, 31, 32])
    given["teacher_scores"] = torch.tensor([[9.0, 8.1, 7.9], [9.0, 7.0, 1.0], [3.0, 5.0, 2.5]])
    config = run_file(false_negative_margin=1.0, in_batch_negatives=in_batch)
    assert config.needs_scores and not config.uses_teacher
    sets = [{10, 11}, {20}, {30, 31, 32}]  # 11 is no negative of the first, though one of the second
    with_margin = RetrievalObjective(config)(**with_relevant(given, [{10}, {20}, {30}]), ramp=0.0)
    judged_so = RetrievalObjective(run_file(in_batch_negatives=in_batch))(**with_relevant(given, sets), ramp=0.0)
    torch.testing.assert_close(with_margin, judged_so)


@pytest.mark.parametrize("distillation", ["kl", "margin-mse"])
def test_a_pair_among_triplets_is_filled_up_with_its_positive_and_teaches_nothing_by_it(distillation):
    given = batch(queries=2, negatives=1)
    given["document_keys"] = torch.tensor([7, 7, 2, 3])
    given["documents"][1] = given["documents"][0]
    given = with_gradient(with_relevant(given, [{7}, {2}]))
    config = run_file(negatives=1, objective="distillation", distillation=distillation)
    RetrievalObjective(config)(**given, ramp=0.0)[0].backward()
    assert given["queries"].grad[0].eq(0).all() and given["documents"].grad[:2].eq(0).all()
    assert given["queries"].grad[1].ne(0).any()


def test_dense_vectors_are_neither_cut_nor_regularised():
    given = batch()
    dense = run_file(representation="dense")
    same_but_for_terms = run_file(
        representation="dense", query_regulariser_weight=1.0, document_regulariser_weight=1.0, training_top_k=1
    )
    plain, found = (RetrievalObjective(config)(**given, ramp=1.0) for config in (dense, same_but_for_terms))
    assert found == plain


def test_scores_are_full_precision_under_autocast():
    given = with_gradient(batch(dimensions=300), torch.float32)
    objective = RetrievalObjective(run_file(objective="contrastive+distillation"))
    expected = objective(**given, ramp=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective(**given, ramp=1.0)
    assert found[0].item() == expected[0].item()


def test_two_parts_of_a_batch_make_up_the_gradient_of_the_whole():
    """What processes do: each has the global loss; its own rows' gradients, put together, are those of one process."""
    given = with_gradient(batch(queries=4))
    objective = RetrievalObjective(run_file(query_regulariser_weight=1.0, document_regulariser_weight=1.0))
    whole = torch.autograd.grad(objective(**given, ramp=1.0)[0], (given["queries"], given["documents"]))
    for rank in range(2):
        mine = {name: given[name].detach().chunk(2)[rank].requires_grad_() for name in ("queries", "documents")}
        gathered = dict(given)
        for name, part in mine.items():
            parts = list(given[name].detach().chunk(2))
            parts[rank] = part
            gathered[name] = torch.cat(parts)
        loss, _ = objective(**gathered, ramp=1.0)
        for found, expected in zip(torch.autograd.grad(loss, list(mine.values())), whole, strict=True):
            torch.testing.assert_close(found, expected.chunk(2)[rank])


@pytest.mark.parametrize("missing", ["document", "key", "teacher"])
def test_a_batch_that_does_not_fit_is_refused(missing):
    given = batch()
    if missing == "document":
        given["documents"] = given["documents"][1:]
    elif missing == "key":
        given["document_keys"] = given["document_keys"][1:]
    else:
        given["teacher_scores"] = None
    with pytest.raises(ValueError, match=r"objective: shapes do not fit: queries \(4, 6\)"):
        RetrievalObjective(run_file(objective="contrastive+distillation"))(**given, ramp=1.0)


# --- regularisers and pruning by themselves ---------------------------------------------------------------------------


def test_texts_that_are_sparse_enough_are_not_regularised():
    weights = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    regularisation.regularise("flops", weights, 1).backward()
    assert weights.grad.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_the_ramp_is_quadratic_and_ends_at_one():
    ramp = [regularisation.ramp(step, 10) for step in (0, 1, 5, 10, 1000)]
    assert ramp == pytest.approx([0, 0.01, 0.25, 1, 1])
    assert regularisation.ramp(0, 0) == 1


def test_the_penalty_of_a_document_frequency_is_a_half_at_the_border():
    shares = torch.tensor([0.0, 0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    penalty = regularisation.document_frequency_penalty(shares)
    torch.testing.assert_close(penalty[[0, 2, 4]], torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert penalty[1] < 1e-4
    assert penalty[3] > 0.999


def test_df_flops_falls_on_frequent_terms_only():
    weights = torch.zeros(100, 3, dtype=torch.float64)
    weights[:, 0] = 0.02  # in all documents
    weights[:2, 1] = 1.0  # in two of a hundred, the same mean weight
    weights.requires_grad_()
    regularisation.df_flops(weights).backward()
    torch.testing.assert_close(weights.grad[0, 0], torch.tensor(2 * 0.02 / 100, dtype=torch.float64))
    assert weights.grad[0, 1] < 1e-5 * weights.grad[0, 0]


def test_flops_of_halves_is_more_than_that_of_the_whole():
    """Why it is taken over all processes' vectors: local values are larger, and more so the smaller the parts."""
    weights = vectors(64, 50, torch.Generator().manual_seed(0)) * (torch.rand(64, 50) < 0.2)
    halves = sum(regularisation.flops(half) for half in weights.chunk(2)) / 2
    quarters = sum(regularisation.flops(part) for part in weights.chunk(4)) / 4
    assert regularisation.flops(weights) < halves < quarters


def test_hard_pruning_keeps_the_largest_and_their_gradient_only():
    weights = torch.tensor([[0.5, 3.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    kept = keep_top(weights, 2)
    assert kept[0].tolist() == [0, 3, 0, 2]
    assert (kept > 0).sum(1).tolist() == [2, 2]
    kept.sum().backward()
    assert torch.equal(weights.grad, (kept > 0).float())


def test_soft_pruning_is_continuous_where_terms_change_places():
    below, above = (keep_top(torch.tensor([[1.0, 2.0 + step, 2.0]]), 1, "soft") for step in (-1e-6, 1e-6))
    torch.testing.assert_close(below, above, atol=1e-5, rtol=0)
    hard = [keep_top(torch.tensor([[1.0, 2.0 + step, 2.0]]), 1) for step in (-1e-6, 1e-6)]
    assert (hard[0] - hard[1]).abs().max() > 1


# --- sentence-transformers as a second oracle -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def losses():
    """The losses of sentence-transformers; they take vectors, so no model is needed."""
    return pytest.importorskip(
        "sentence_transformers.sparse_encoder.losses", reason="sentence-transformers is not installed: no second oracle"
    )


@pytest.mark.parametrize("kind", ["contrastive", "margin-mse", "kl", "flops"])
def test_equals_sentence_transformers(losses, kind):
    given = with_gradient(batch(queries=5, negatives=3, dimensions=20))
    queries, documents = given["queries"], given["documents"]
    columns = [queries, *documents.view(5, 4, -1).unbind(1)]
    if kind == "contrastive":
        config = run_file(negatives=3, temperature=0.5)
        theirs = losses.SparseMultipleNegativesRankingLoss(None, scale=2.0).compute_loss_from_embeddings(columns, None)
    elif kind == "margin-mse":
        config = run_file(negatives=3, objective="distillation", distillation="margin-mse")
        theirs = losses.SparseMarginMSELoss(None).compute_loss_from_embeddings(columns, given["teacher_scores"])
    elif kind == "kl":
        config = run_file(negatives=3, objective="distillation", temperature=0.5, teacher_temperature=3.0)
        loss = losses.SparseDistillKLDivLoss(None, student_temperature=0.5, teacher_temperature=3.0)
        theirs = loss.compute_loss_from_embeddings(columns, given["teacher_scores"]) / 0.5**2  # their factor T^2
    else:
        config = run_file(
            negatives=3,
            query_regulariser_weight=0.1,
            document_regulariser_weight=0.2,
            query_regulariser_threshold=12,
            document_regulariser_threshold=12,
        )
        loss = losses.FlopsLoss(None, threshold=12)
        theirs = 0.1 * loss.compute_loss_from_embeddings(queries) + 0.2 * loss.compute_loss_from_embeddings(documents)
        contrastive = losses.SparseMultipleNegativesRankingLoss(None).compute_loss_from_embeddings(columns, None)
        theirs = theirs + contrastive
    ours, _ = RetrievalObjective(config)(**given, ramp=1.0)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    found, expected = (torch.autograd.grad(loss, (queries, documents)) for loss in (ours, theirs))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_bm25_weights_are_those_of_the_formula() -> None:
    counts = torch.tensor([[2.0, 0.0, 1.0], [0.0, 5.0, 0.0]])
    found = bm25_weights(counts, torch.tensor([0.5, 1.0, 2.0]), mean_length=4.0)
    norm = [0.9 * (1 - 0.4 + 0.4 * length / 4.0) for length in (3.0, 5.0)]
    wanted = [[0.5 * 2 * 1.9 / (2 + norm[0]), 0, 2.0 * 1.9 / (1 + norm[0])], [0, 1.0 * 5 * 1.9 / (5 + norm[1]), 0]]
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_own_terms_are_pulled_to_their_weights_and_expansions_alone_regularised() -> None:
    documents = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 3.0]], requires_grad=True)
    own = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    keys = torch.arange(2)
    given = {
        "query_keys": keys, "document_keys": keys + 10, "relevant": torch.eye(2, dtype=torch.bool),
        "teacher_scores": None, "ramp": 1.0, "own_weights": own,
    }  # fmt: skip
    config = run_file(negatives=0, lexical_weight=0.5, regularised_terms="expansions", document_regulariser_weight=2.0)
    _, parts = RetrievalObjective(config)(torch.ones(2, 3), documents, **given)
    assert parts["lexical"].item() == pytest.approx(0.5 * (1 + 1 + 0) / 2)
    assert parts["document_regulariser"].item() == pytest.approx(2.0 * (0.25**2 + 1.5**2))
    plain = run_file(negatives=0, document_regulariser_weight=2.0)
    assert "lexical" not in RetrievalObjective(plain)(torch.ones(2, 3), documents, **given)[1]


def test_a_lost_term_of_the_text_finds_its_way_back() -> None:
    logits = torch.tensor([[-3.0, -1.0, 2.0, -torch.inf]], requires_grad=True)
    weights = torch.log1p(torch.relu(logits))
    found = with_gradient_below_zero(weights, logits, torch.tensor([[True, False, True, True]]))
    assert torch.equal(found, weights)
    lexical_error(found, torch.tensor([[1.0, 0.0, 1.0, 0.0]])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] == -2.0
    assert logits.grad[0, 1] == 0
    assert torch.isfinite(logits.grad).all()
