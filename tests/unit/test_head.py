"""The sparse head against the naive formula, forward and backward."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from pyserini_llm_sparse.modelling.backbone import head  # noqa: E402


def naive(hidden, weight, mask, bias=None):
    """The formula as it is written, with the tensor of all logits."""
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    maxima = logits.masked_fill(~mask.bool()[:, :, None], -torch.inf).amax(1)
    return torch.where(mask.bool().any(1, keepdim=True), maxima, torch.zeros_like(maxima))


def example(batch=5, sequence=7, width=6, vocabulary=40, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, sequence, width, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.rand(batch, sequence, generator=generator) < 0.6
    mask[0] = False
    mask[1] = torch.arange(sequence) < 3
    mask[2] = torch.arange(sequence) >= 4
    mask[3] = True
    return hidden, weight, mask, bias


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(head, "LOGITS_PER_BLOCK_CPU", 300)
        monkeypatch.setattr(head, "GRADIENT_ROWS_PER_BLOCK", 7)
    return request.param


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_equals_the_naive_formula(blocks, with_bias, with_gradient):
    hidden, weight, mask, bias = example(vocabulary=600)
    hidden.requires_grad_(with_gradient)
    result = head.max_logits(hidden, weight, mask, bias if with_bias else None)
    torch.testing.assert_close(result, naive(hidden, weight, mask, bias if with_bias else None))


def test_gradients_equal_those_of_the_naive_formula(blocks):
    inputs = example(vocabulary=600)
    ours = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    theirs = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    head.activate(head.max_logits(*ours), 0.7).square().sum().backward()
    torch.log1p(torch.relu(0.7 * naive(*theirs))).square().sum().backward()
    for index in (0, 1, 3):
        torch.testing.assert_close(ours[index].grad, theirs[index].grad)


def test_passes_gradcheck():
    hidden, weight, mask, bias = example(batch=4, sequence=5, width=3, vocabulary=9)
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(lambda h, w, b: head.max_logits(h, w, mask, b), inputs)


def test_only_some_inputs_may_need_a_gradient():
    hidden, weight, mask, _ = example()
    weight.requires_grad_()
    head.max_logits(hidden, weight, mask).sum().backward()
    reference = weight.detach().clone().requires_grad_()
    naive(hidden, reference, mask).sum().backward()
    torch.testing.assert_close(weight.grad, reference.grad)
    assert hidden.grad is None


def test_a_masked_position_never_wins():
    hidden, weight, mask, bias = example()
    loud = torch.where(mask[:, :, None], hidden, 1e6)
    quiet = head.max_logits(hidden, weight, mask, bias)
    torch.testing.assert_close(head.max_logits(loud, weight, mask, bias), quiet)


def test_a_fully_masked_row_gives_zero_and_no_gradient():
    hidden, weight, mask, bias = example()
    hidden.requires_grad_()
    result = head.max_logits(hidden, weight, mask, bias)
    result.sum().backward()
    assert result[0].eq(0).all()
    assert hidden.grad[0].eq(0).all()


def test_a_text_alone_gives_what_it_gives_in_a_batch(blocks):
    hidden, weight, mask, _ = example(dtype=torch.float32)
    together = head.max_logits(hidden, weight, mask)
    for row in range(len(hidden)):
        alone = head.max_logits(hidden[row : row + 1], weight, mask[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_half_precision_gives_float32_of_the_exact_products(dtype, with_gradient, monkeypatch):
    monkeypatch.setattr(head, "_multiplies_bfloat16", lambda: False)
    hidden, weight, mask, bias = example(dtype=dtype)
    exact = naive(hidden.double(), weight.double(), mask, bias.double())
    weight.requires_grad_(with_gradient)
    result = head.max_logits(hidden, weight, mask, bias)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), exact, atol=1e-5, rtol=1e-5)
    if with_gradient:
        result.sum().backward()
        assert weight.grad.dtype == dtype


def test_a_processor_with_products_in_bfloat16_is_off_by_one_rounding(blocks, monkeypatch):
    monkeypatch.setattr(head, "_multiplies_bfloat16", lambda: True)
    hidden, weight, mask, _ = example(sequence=50, width=64, vocabulary=600, dtype=torch.bfloat16)
    exact = naive(hidden.double(), weight.double(), mask)
    ours = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    result = head.max_logits(*ours, mask)
    assert result.dtype == torch.float32
    assert not torch.allclose(result.double(), exact, atol=1e-5, rtol=1e-5), "was widened"
    torch.testing.assert_close(result.double(), exact, atol=0, rtol=2**-8)
    # What flows back is exact for the position that won, and another one wins only where both round to one number.
    won = (hidden.double() @ weight.double().T).masked_fill(~mask[:, :, None], -torch.inf)
    texts = torch.arange(len(hidden))[mask.any(1)]
    for text in texts:
        chosen = torch.autograd.grad(head.max_logits(ours[0][text, None], ours[1], mask[text, None])[0, 7], ours[0])[0]
        position = chosen[text].abs().sum(1).argmax()
        torch.testing.assert_close(won[text, position, 7], exact[text, 7], atol=0, rtol=2**-7)
        torch.testing.assert_close(chosen[text, position], weight[7])


def test_float32_is_within_1e_5_of_float64():
    hidden, weight, mask, _ = example(sequence=50, width=64, vocabulary=2000)
    result = head.activate(head.max_logits(hidden.float(), weight.float(), mask))
    exact = torch.log1p(torch.relu(naive(hidden, weight, mask)))
    torch.testing.assert_close(result.double(), exact, atol=1e-5, rtol=1e-5)


def test_without_gradient_nothing_is_kept():
    hidden, weight, mask, _ = example()
    weight.requires_grad_()
    with torch.no_grad():
        assert head.max_logits(hidden, weight, mask).grad_fn is None


def test_saves_no_tensor_of_all_logits():
    hidden, weight, mask, _ = example(batch=4, sequence=32, width=8, vocabulary=500)
    hidden.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        head.max_logits(hidden, weight, mask)
    assert max(saved) == 500 * 8  # the weight itself; all logits would be 64,000


@pytest.mark.parametrize(("batch", "sequence"), [(0, 3), (2, 0)])
def test_empty_input_gives_zeros(batch, sequence):
    result = head.max_logits(torch.zeros(batch, sequence, 4), torch.ones(9, 4), torch.ones(batch, sequence))
    assert result.shape == (batch, 9)
    assert result.eq(0).all()


def test_shapes_that_do_not_fit_are_refused():
    hidden, weight, mask, bias = example()
    with pytest.raises(ValueError, match="shapes do not fit"):
        head.max_logits(hidden, weight, mask[:, :-1], bias)


def test_weights_are_never_negative_and_zero_stays_zero():
    weights = head.activate(torch.tensor([-3.0, 0.0, 1.0]), scale=2.0)
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.0, 1.0986123]))


def test_autocast_does_not_narrow_products_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2, 5, 64, generator=generator), torch.randn(300, 64, generator=generator)
    mask = torch.ones(2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.max_logits(hidden, weight, mask)
    assert torch.equal(found, head.max_logits(hidden, weight, mask))


def test_a_calibrated_head_equals_rows_less_the_vector(blocks):
    hidden, weight, mask, bias = example(vocabulary=600)
    shift = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    ours = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias, shift)]
    theirs = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias, shift)]
    found = head.max_logits(ours[0], ours[1], mask, ours[2], ours[3])
    wanted = naive(theirs[0], theirs[1] - theirs[3], mask, theirs[2])
    torch.testing.assert_close(found, wanted)
    head.activate(found).square().sum().backward()
    torch.log1p(torch.relu(wanted)).square().sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
