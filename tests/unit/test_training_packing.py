"""Adaptation sees every token of the texts once, in full sequences, or single texts with tokens masked as asked."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.modelling.checkpoint import load_checkpoint
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from pyserini_llm_sparse.training.config.fields import AdaptConfig
from pyserini_llm_sparse.training.data.kept_tokens import entry_of
from pyserini_llm_sparse.training.data.packing import (
    MaskedTexts,
    PackedTexts,
    SequenceCollator,
    TokenSequences,
    adaptation_data,
)
from pyserini_llm_sparse.training.data.sampling import EpochSampler
from tests.checkpoints import TEXTS, checkpoint, sentences, transformers_tokenizer

BOS, EOS, PAD = 0, 1, 2
TOKENIZER = TextTokenizer.from_any(transformers_tokenizer("byte_level"))


def config(**fields: Any) -> AdaptConfig:
    attention = "bidirectional" if fields.get("objective") == "masked-next-token" else "causal"
    given = {"output": Path("unused"), "model": "unused", "texts": ("unused",), "sequence_length": 16}
    return AdaptConfig(**{**given, "attention": attention, **fields})


def masking(**fields: Any) -> AdaptConfig:
    return config(objective="masked-next-token", **fields)


def tokens(text: str) -> list[int]:
    return TOKENIZER.backend.encode(text, add_special_tokens=False).ids


def items(data: TokenSequences) -> list[tuple[list[int], list[int]]]:
    found = [data[number] for number in range(len(data))]
    return [(each["input_ids"].tolist(), each["targets"].tolist()) for each in found]


# packed ---------------------------------------------------------------------------------------------------------------


def test_packed_sequences_are_the_texts_between_eos_in_pieces_that_start_with_bos() -> None:
    packed = PackedTexts(TEXTS, TOKENIZER, config())
    stream = [token for text in TEXTS for token in (*tokens(text), EOS)]
    pieces = [stream[start : start + 15] for start in range(0, len(stream), 15)]
    full = [[BOS, *piece] for piece in pieces if len(piece) == 15]
    assert [ids for ids, _ in items(packed)] == full
    assert packed.left_over == len(stream) - 15 * len(full)
    assert packed.texts == len(TEXTS)


def test_each_position_of_a_packed_sequence_predicts_the_next_token() -> None:
    for ids, targets in items(PackedTexts(TEXTS, TOKENIZER, config())):
        assert targets == [*ids[1:], -100]


def test_a_tokenizer_without_special_tokens_packs_without_them() -> None:
    plain = TextTokenizer(TOKENIZER.backend)
    packed = PackedTexts(TEXTS, plain, config())
    stream = [token for text in TEXTS for token in tokens(text)]
    assert [token for ids, _ in items(packed) for token in ids] == stream[: 16 * len(packed)]


def test_texts_are_read_as_a_stream_and_no_token_is_lost_between_lists_of_them() -> None:
    texts = sentences() * 5
    assert len(texts) > 2 * 512
    packed = PackedTexts(iter(texts), TOKENIZER, config(sequence_length=64))
    found = Counter(token for ids, _ in items(packed) for token in ids[1:])
    expected = Counter(token for text in texts for token in (*tokens(text), EOS))
    assert sum((expected - found).values()) == packed.left_over < 63
    assert not found - expected


def test_texts_that_fill_no_sequence_are_an_error() -> None:
    with pytest.raises(DataError, match="1 texts of 4 tokens: they do not fill one sequence of 512"):
        PackedTexts(["The wing."], TOKENIZER, config(sequence_length=512))


# masked ---------------------------------------------------------------------------------------------------------------


def test_the_position_before_a_masked_token_predicts_it_and_no_other_does() -> None:
    masked = MaskedTexts(TEXTS, TOKENIZER, masking(mask_probability=0.4))
    mask_id = TOKENIZER.backend.token_to_id("_")
    assert masked.mask_id == mask_id
    for text, (ids, targets) in zip(TEXTS, items(masked), strict=True):
        original = [BOS, *tokens(text)][:16]
        assert len(ids) == len(targets) == len(original)
        assert ids[0] == BOS
        predicted = {position + 1: token for position, token in enumerate(targets) if token != -100}
        assert predicted
        for position, (token, was) in enumerate(zip(ids, original, strict=True)):
            assert token == (mask_id if position in predicted else was)
            assert predicted.get(position, was) == was


def test_about_the_share_that_was_asked_for_is_masked() -> None:
    masked = MaskedTexts(sentences(), TOKENIZER, masking(sequence_length=64))
    counts = [(sum(token != -100 for token in targets), len(ids) - 1) for ids, targets in items(masked)]
    share = sum(number for number, _ in counts) / sum(length for _, length in counts)
    assert 0.18 < share < 0.24  # 0.2, and at least one in each
    assert min(number for number, _ in counts) == 1


def test_special_tokens_and_the_first_of_a_sequence_are_never_masked() -> None:
    plain = TextTokenizer(TOKENIZER.backend)  # no BOS: the first token is one of the text
    masked = MaskedTexts(["The<|end|>wing<|pad|>"] * 50, plain, masking(mask_probability=0.9))
    found = Counter(place for ids, _ in items(masked) for place, token in enumerate(ids) if token == masked.mask_id)
    ids = tokens("The<|end|>wing<|pad|>")
    ordinary = {place for place, token in enumerate(ids) if token not in (EOS, PAD)}
    assert set(found) == ordinary - {0}


def test_masks_are_those_of_seed_epoch_and_text() -> None:
    def masks(seed: int, epoch: int) -> list[Any]:
        data = MaskedTexts(TEXTS, TOKENIZER, masking(seed=seed))
        return [data[epoch * len(data) + number]["targets"].tolist() for number in range(len(data))]

    assert masks(1, 0) == masks(1, 0)
    assert len({json.dumps(masks(seed, epoch)) for seed in (1, -2) for epoch in (0, 1)}) == 4


def test_masked_texts_may_be_packed_each_with_its_bos() -> None:
    texts = sentences()[:40]
    packed = MaskedTexts(texts, TOKENIZER, masking(packed=True, mask_probability=0.3))
    stream = [token for text in texts for token in (BOS, *tokens(text))]
    assert (len(packed), packed.left_over) == divmod(len(stream), 16)
    for number, (ids, targets) in enumerate(items(packed)):
        original = stream[16 * number : 16 * (number + 1)]
        for place, (token, was) in enumerate(zip(ids, original, strict=True)):
            predicted = place > 0 and targets[place - 1] != -100
            assert token == (packed.mask_id if predicted else was)
            assert not predicted or (targets[place - 1] == was != BOS)
    with pytest.raises(DataError, match="they do not fill one sequence of 16"):
        MaskedTexts(["The wing"], TOKENIZER, masking(packed=True))


def test_of_the_chosen_tokens_some_become_random_ones_and_some_stay() -> None:
    fields = {"packed": True, "sequence_length": 512, "mask_probability": 0.5}
    plain = MaskedTexts(sentences(), TOKENIZER, masking(**fields))
    mixed = MaskedTexts(sentences(), TOKENIZER, masking(mask_random_share=0.3, mask_kept_share=0.2, **fields))
    kinds: Counter[str] = Counter()
    for (_, targets), (ids, again) in zip(items(plain), items(mixed), strict=True):
        assert targets == again  # the same ones are predicted
        for token, target in zip(ids[1:], targets, strict=False):
            if target != -100:
                kinds["mask" if token == mixed.mask_id else "kept" if token == target else "random"] += 1
                assert token not in (BOS, EOS, PAD)
    shares = {kind: number / kinds.total() for kind, number in kinds.items()}
    assert shares == pytest.approx({"mask": 0.5, "random": 0.3, "kept": 0.2}, abs=0.03)
    with pytest.raises(ValueError, match="more than all of the chosen tokens"):
        masking(mask_random_share=0.6, mask_kept_share=0.6)


def test_texts_with_nothing_to_mask_are_counted() -> None:
    masked = MaskedTexts(["The wing", "", "<|end|>"], TOKENIZER, masking())
    assert (len(masked), masked.texts, masked.left_out) == (1, 3, 2)
    with pytest.raises(DataError, match="2 texts and no token to mask"):
        MaskedTexts(["", "<|end|>"], TOKENIZER, masking())


def test_a_mask_token_that_is_several_tokens_is_refused() -> None:
    with pytest.raises(DataError, match=r"mask_token: '\[MASK\]' is \d tokens"):
        MaskedTexts(TEXTS, TOKENIZER, masking(mask_token="[MASK]"))
    with pytest.raises(DataError, match=r"mask_token: '<\|pad\|>' is beyond the model's vocabulary"):
        MaskedTexts(TEXTS, TOKENIZER, masking(mask_token="<|pad|>"), vocabulary_size=PAD)


# both -----------------------------------------------------------------------------------------------------------------


def test_held_out_sequences_are_drawn_by_the_seed_and_not_trained_on() -> None:
    whole = MaskedTexts(sentences(), TOKENIZER, masking())
    train, held_out = whole.split(20, seed=1)
    assert (len(train), len(held_out)) == (280, 20)
    everything = [json.dumps(item) for item in items(whole)]  # a part keeps the masks of the whole
    assert sorted(json.dumps(item) for item in items(train) + items(held_out)) == sorted(everything)
    assert items(held_out) == items(whole.split(20, seed=1)[1]) != items(whole.split(20, seed=2)[1])
    with pytest.raises(DataError, match="held_out_texts: 300 of 300"):
        whole.split(300, seed=1)


def test_batches_are_padded_on_the_right_with_no_target_there() -> None:
    data = MaskedTexts(TEXTS, TOKENIZER, masking())
    batch = SequenceCollator(PAD)([data[number] for number in range(len(data))])
    assert list(batch) == ["input_ids", "attention_mask", "targets"]
    for row, (ids, targets) in enumerate(items(data)):
        padding = batch["input_ids"].shape[1] - len(ids)
        assert batch["input_ids"][row].tolist() == ids + [PAD] * padding
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * padding
        assert batch["targets"][row].tolist() == targets + [-100] * padding


def test_a_loader_masks_anew_in_each_epoch_in_workers_too() -> None:
    data = MaskedTexts(TEXTS, TOKENIZER, masking())
    sampler = EpochSampler(data, seed=1)
    loader = DataLoader(data, batch_size=5, sampler=sampler, collate_fn=SequenceCollator(), num_workers=1)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        [batch] = loader
        rows = [index % 5 for index in sampler]
        assert [index // 5 for index in sampler] == [epoch] * 5
        epochs.append(batch["targets"][torch.tensor(rows).argsort()])
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("objective", ["sparse-next-token", "masked-next-token"])
def test_the_data_of_a_run_comes_from_its_sources(objective: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": str(n), "text": text}) + "\n" for n, text in enumerate(sentences())))
    settings = config(objective=objective, texts=(str(path),), held_out_texts=7) if objective[0] == "s" else masking(
        texts=(str(path),), held_out_texts=7
    )  # fmt: skip
    model = load_checkpoint(parse_encoder_name(str(checkpoint("llama_causal"))))
    train, held_out, collator = adaptation_data(settings, model)
    assert held_out is not None
    assert len(held_out) == 7
    whole, nothing, _ = adaptation_data(settings.model_copy(update={"held_out_texts": 0}), model)
    assert nothing is None
    assert len(whole) == len(train) + 7
    batch = collator([train[0], held_out[0]])
    assert batch["input_ids"].shape == batch["targets"].shape == batch["attention_mask"].shape


# kept on disk ---------------------------------------------------------------------------------------------------------


def no_texts() -> Iterator[str]:
    raise AssertionError("the texts are read")
    yield ""


@pytest.mark.parametrize("fields", [{}, {"objective": "masked-next-token"}])
def test_kept_tokens_are_those_of_the_texts_which_are_not_read_again(fields: dict[str, Any], tmp_path: Path) -> None:
    kind = MaskedTexts if fields else PackedTexts
    plain = kind(TEXTS, TOKENIZER, config(**fields))
    made, again = (kind(texts, TOKENIZER, config(**fields), None, tmp_path / "entry") for texts in (TEXTS, no_texts()))
    assert items(made) == items(again) == items(plain)
    assert isinstance(again._ids, np.memmap), "all processes share the memory"
    assert (again.texts, again.left_over) == (plain.texts, plain.left_over)


def test_damaged_tokens_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = tmp_path / "entry"
    expected = items(PackedTexts(TEXTS, TOKENIZER, config(), None, entry))
    for file, content in (("ids.npy", (entry / "ids.npy").read_bytes()[:-9]), ("counts.json", b"{"), ("ends.npy", b"")):
        caplog.clear()
        (entry / file).write_bytes(content)
        assert items(PackedTexts(TEXTS, TOKENIZER, config(), None, entry)) == expected
        assert "damaged" in caplog.text
    (entry / "ids.npy").unlink()
    assert items(PackedTexts(TEXTS, TOKENIZER, config(), None, entry)) == expected


def test_tokens_are_known_by_data_tokenizer_and_settings_and_not_by_names() -> None:
    data = [{"source": "a", "name": "a.txt", "bytes": 3, "sha256": "12"}]
    entry = entry_of(data, TOKENIZER, {"length": 16})
    assert entry is not None and entry == entry_of([{"source": "b", "sha256": "12"}], TOKENIZER, {"length": 16})
    others = [
        entry_of([{"sha256": "13"}], TOKENIZER, {"length": 16}),
        entry_of([*data, *data], TOKENIZER, {"length": 16}),
        entry_of(data, TOKENIZER, {"length": 17}),
        entry_of(data, dataclasses.replace(TOKENIZER, eos_id=None), {"length": 16}),
        entry_of(data, TextTokenizer.from_any(transformers_tokenizer("metaspace")), {"length": 16}),
    ]
    assert len({entry, *others}) == 6
    for unknown in ([], [{"source": "hf:x/y", "revision": None}], [*data, {"source": "irds:x"}]):
        assert entry_of(unknown, TOKENIZER, {"length": 16}) is None
