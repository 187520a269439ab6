"""Both next-token losses against torch's cross-entropy on all logits, value and gradient."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from pyserini_llm_sparse.training.objectives import language_modelling  # noqa: E402
from pyserini_llm_sparse.training.objectives.language_modelling import next_token_loss  # noqa: E402


def plain(hidden, weight, targets, bias=None):
    """The two losses as they are written, with the tensor of all logits."""
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    flat, tokens = logits.flatten(0, 1), targets.flatten()
    return cross_entropy(flat, tokens), cross_entropy(torch.log1p(torch.relu(flat)), tokens)


def example(batch=2, sequence=6, width=4, vocabulary=50, dtype=torch.float64, seed=0, predicted=0.7):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, sequence, width, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, vocabulary, (batch, sequence), generator=generator)
    targets[torch.rand(batch, sequence, generator=generator) >= predicted] = -100
    targets[0, 0] = vocabulary - 1
    return hidden, weight, targets, bias


def gradients(total, *inputs):
    return torch.autograd.grad(total, inputs)


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(language_modelling, "LOGITS_PER_BLOCK_CPU", 21)
        monkeypatch.setattr(language_modelling, "TERMS_PER_BLOCK_CPU", 7)
    return request.param


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_cross_entropy_on_all_logits(blocks, dtype, tolerance, with_bias):
    hidden, weight, targets, bias = example()
    exact = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    ours = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    count = 3 if with_bias else 2
    expected = plain(*exact[:2], targets, exact[2] if with_bias else None)
    found = next_token_loss(*ours[:2], targets, 0.7, ours[2] if with_bias else None)
    close = {"atol": tolerance, "rtol": tolerance}
    for value, reference in zip(found, expected, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), reference, **close)
    for mixture in ((1.0, 0.7), (1.0, 0.0), (0.0, 1.0), (-3.0, 40.0)):
        found_gradients = torch.autograd.grad(
            mixture[0] * found[0] + mixture[1] * found[1], ours[:count], retain_graph=True
        )
        expected_gradients = torch.autograd.grad(
            mixture[0] * expected[0] + mixture[1] * expected[1], exact[:count], retain_graph=True
        )
        largest = max(abs(factor) for factor in mixture)
        for gradient, reference in zip(found_gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient.double() / largest, reference / largest, **close)


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    sequence=st.integers(1, 5),
    width=st.integers(1, 5),
    vocabulary=st.integers(1, 30),
    terms=st.integers(1, 40),
    logits=st.integers(1, 60),
    predicted=st.sampled_from([0.0, 0.2, 1.0]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_any_blocks_give_the_same(batch, sequence, width, vocabulary, terms, logits, predicted, seed):
    hidden, weight, targets, bias = example(batch, sequence, width, vocabulary, seed=seed, predicted=predicted)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_modelling, "TERMS_PER_BLOCK_CPU", terms)
        patch.setattr(language_modelling, "LOGITS_PER_BLOCK_CPU", logits)
        first, second = next_token_loss(hidden, weight, targets, 2.0, bias)
        found = gradients(first + 2 * second, *inputs)
    expected_first, expected_second = plain(hidden, weight, targets, bias)
    torch.testing.assert_close((first, second), (expected_first, expected_second), atol=1e-10, rtol=1e-10)
    expected = gradients(expected_first + 2 * expected_second, *inputs)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_passes_gradcheck(blocks):
    hidden, weight, targets, bias = example(vocabulary=9, width=3)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(lambda h, w, b: next_token_loss(h, w, targets, 0.5, b), inputs)


@pytest.mark.parametrize("trained", ["hidden", "weight"])
def test_only_one_input_may_need_a_gradient(blocks, trained):
    hidden, weight, targets, _ = example()
    chosen = (hidden if trained == "hidden" else weight).requires_grad_()
    first, second = next_token_loss(hidden, weight, targets, 1.0)
    expected = gradients(sum(plain(hidden, weight, targets)), chosen)
    torch.testing.assert_close(gradients(first + second, chosen), expected)


def test_gradients_accumulate_over_scaled_micro_batches(blocks):
    hidden, weight, targets, _ = example(batch=4, predicted=1.0)
    whole, parts = (weight.clone().requires_grad_() for _ in range(2))
    sum(plain(hidden, whole, targets)).backward()
    for half in (slice(0, 2), slice(2, 4)):
        first, second = next_token_loss(hidden[half], parts, targets[half], 1.0)
        ((first + second) / 2).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_the_scale_of_a_gradient_scaler_changes_nothing_else():
    hidden, weight, targets, _ = example(dtype=torch.float32)
    weight.requires_grad_()
    scaled = gradients(65536.0 * sum(next_token_loss(hidden, weight, targets, 1.0)), weight)[0]
    torch.testing.assert_close(scaled / 65536.0, gradients(sum(plain(hidden, weight, targets)), weight)[0])


def test_without_a_sparse_weight_the_second_is_zero():
    hidden, weight, targets, _ = example()
    weight.requires_grad_()
    first, second = next_token_loss(hidden, weight, targets, 0.0)
    assert second.item() == 0
    expected = gradients(plain(hidden, weight, targets)[0], weight)
    torch.testing.assert_close(gradients(first + 0.0 * second, weight), expected)


def test_without_a_target_both_are_zero_and_so_is_the_gradient():
    hidden, weight, targets, _ = example()
    hidden.requires_grad_()
    first, second = next_token_loss(hidden, weight, torch.full_like(targets, -100), 1.0)
    assert (first.item(), second.item()) == (0, 0)
    assert gradients(first + second, hidden)[0].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32_losses_of_the_exact_products(dtype):
    hidden, weight, targets, bias = example(dtype=dtype)
    exact = [tensor.double().requires_grad_() for tensor in (hidden, weight, bias)]
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    found = next_token_loss(hidden, weight, targets, 1.0, bias)
    expected = plain(*exact[:2], targets, exact[2])
    for value, reference in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), reference, atol=1e-5, rtol=1e-5)
    resolution = torch.finfo(dtype).eps
    for gradient, reference in zip(gradients(sum(found), *inputs), gradients(sum(expected), *exact), strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), reference, atol=1e-6, rtol=resolution)


def test_autocast_leaves_the_sums_in_float32():
    hidden, weight, targets, _ = example(dtype=torch.float32)
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = next_token_loss(hidden, weight, targets, 1.0)
    expected = plain(hidden, weight, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(sum(found), weight), gradients(sum(expected), weight))


def test_large_logits_do_not_overflow():
    hidden, weight, targets, _ = example(dtype=torch.float32)
    hidden = (hidden * 1000).requires_grad_()
    found, expected = next_token_loss(hidden, weight, targets, 1.0), plain(hidden, weight, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(sum(found), hidden), gradients(sum(expected), hidden))


def test_no_tensor_of_all_logits_exists():
    """In either direction no tensor is larger than a block, however long the batch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return result

    hidden, weight, targets, _ = example(batch=8, sequence=512, width=8, vocabulary=1000, dtype=torch.float32)
    weight.requires_grad_()
    hidden.requires_grad_()
    with Watch():
        sum(next_token_loss(hidden, weight, targets, 1.0)).backward()
    assert len(weight) < largest <= language_modelling.LOGITS_PER_BLOCK_CPU < targets.numel() * len(weight)


def test_a_target_outside_the_vocabulary_is_refused():
    hidden, weight, targets, _ = example(vocabulary=50)
    targets[1, 1] = 50
    with pytest.raises(ValueError, match="target 50: not in the vocabulary of 50 tokens"):
        next_token_loss(hidden, weight, targets, 1.0)


def test_shapes_that_do_not_fit_are_named():
    hidden, weight, targets, _ = example()
    with pytest.raises(ValueError, match=r"hidden \(2, 6, 4\), head \(50, 4\), targets \(2, 5\)"):
        next_token_loss(hidden, weight, targets[:, 1:], 1.0)
