"""Documents per second and peak memory of ways to encode the same documents, and each way's ratio to a peer.

    python benchmarks/encoding_speed.py --corpus ../shared/data/scifact/corpus.jsonl.gz --threads 2
    python benchmarks/encoding_speed.py --corpus ... --shape 768 12 2048 32000 --documents 64 --rounds 3

All but one encode with the same weights: the model of the package, or with ``--shape`` a random Llama (width, layers,
feed-forward, vocabulary), whose head is shifted until about a hundredth of the terms is active, as in a trained model.

- ``torch fp32``, ``torch bf16``, ``onnx fp32``, ``onnx int8``: this package.
- ``loop``: transformers as published code uses it: corpus order, batches padded to the longest, logits of all
  positions, dense rows to the host, a dict comprehension, json.dumps.
- ``sentence-transformers``: its SparseEncoder, the head as a Dense module, SpladePooling.
- ``pyserini splade``: Pyserini's SpladeDocumentEncoder on a random BERT of the same width, depth and vocabulary.
- ``products``: nothing but the matrix products of the model's layers and head, of the padded batches that ours uses, in
  float32: what the machine gives in that precision (the share of the limit).

Each way runs in a process of its own that loads, encodes a part to warm up, and then encodes everything once a round;
the rounds of all ways alternate. Reported are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from beir_collections import lines
from peak_memory import peak

WAYS = (
    "torch fp32", "torch bf16", "onnx fp32", "onnx int8", "loop", "sentence-transformers", "pyserini splade",
    "products",
)  # fmt: skip
BATCH, LENGTH = 32, 256
WARM_UP = 16  # documents
ACTIVE_SHARE = 0.01

Encode = Callable[[list[str]], Any]


def random_model(folder: Path, shape: list[int], texts: list[str]) -> None:
    """Write a Llama with random weights, and with as many active terms as a trained one."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from pyserini_llm_sparse.checkpoint import save_checkpoint
    from pyserini_llm_sparse.spec import EncodingSpec

    width, layers, feed_forward, vocabulary = shape
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trained.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special))
    pieces = trained.get_vocab()
    pieces |= {f"unused{number}": number for number in range(len(pieces), vocabulary)}
    whole = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    whole.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, pad_token="[PAD]", bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]"
    )
    torch.manual_seed(7)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=feed_forward, num_hidden_layers=layers,
            num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=1024,
            tie_word_embeddings=False, bos_token_id=2, eos_token_id=3, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    with torch.inference_mode():
        ids = tokenizer(texts[:4], truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
        states = model.model(**ids).last_hidden_state[ids["attention_mask"].bool()]
        mean = states.mean(0)
        largest = torch.stack([part @ model.lm_head.weight.T for part in states.split(64)]).amax((0, 1))
        threshold = largest.quantile(1 - ACTIVE_SHARE)
    model.lm_head.weight.data -= threshold * mean / (states @ mean).mean()
    spec = EncodingSpec(attention="causal", document_max_length=LENGTH, query_max_length=LENGTH)
    save_checkpoint(folder, model, tokenizer, spec)


def ours(model: str, engine: str, threads: int) -> Encode:
    """Return this package's encoder in a precision of torch or ONNX Runtime."""
    from pyserini_llm_sparse import SparseEncoder

    library, precision = engine.split()
    options = {"precision": precision}
    if library == "torch":
        options = {"dtype": {"fp32": "float32", "bf16": "bfloat16"}[precision]}
    encoder = SparseEncoder.load(model, device="cpu", threads=threads, document_max_length=LENGTH, **options)
    return lambda texts: [json.dumps(vector) for vector in encoder.document_impacts(texts, batch_size=BATCH)]


def loop(model: str, threads: int) -> Encode:
    """Return the straightforward loop."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pyserini_llm_sparse import SparseEncoder
    from pyserini_llm_sparse.backbone import set_attention

    torch.set_num_threads(threads)
    checkpoint = SparseEncoder.load(model).checkpoint
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    network = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    set_attention(network, checkpoint.spec.attention)
    terms = {number: token for token, number in tokenizer.get_vocab().items()}

    @torch.inference_mode()
    def encode(texts: list[str]) -> list[str]:
        written = []
        for start in range(0, len(texts), BATCH):
            with_bos = [f"{tokenizer.bos_token}{text}" for text in texts[start : start + BATCH]]
            inputs = tokenizer(
                with_bos, padding=True, truncation=True, max_length=LENGTH, add_special_tokens=False,
                return_tensors="pt", return_token_type_ids=False,
            )  # fmt: skip
            logits = network(**inputs).logits
            weights = (torch.log1p(torch.relu(logits)) * inputs["attention_mask"][:, :, None]).amax(1).numpy()
            for row in weights:
                vector = {terms[term]: round(float(weight) * 100) for term, weight in enumerate(row) if weight > 0}
                written.append(json.dumps(vector))
        return written

    return encode


def sentence_transformers(model: str, threads: int) -> Encode:
    """Return SparseEncoder over the same weights; its attention is causal, which costs the same."""
    import torch
    from sentence_transformers import SparseEncoder as Theirs
    from sentence_transformers.sentence_transformer.modules import Dense, Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from transformers import AutoModelForCausalLM

    from pyserini_llm_sparse import SparseEncoder

    torch.set_num_threads(threads)
    folder = str(SparseEncoder.load(model).checkpoint.folder)
    head = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).lm_head
    dense = Dense(
        head.in_features, head.out_features, bias=False, activation_function=torch.nn.Identity(),
        init_weight=head.weight.detach(), module_input_name="token_embeddings",
        module_output_name="token_embeddings",
    )  # fmt: skip
    encoder = Theirs(modules=[Transformer(folder, max_seq_length=LENGTH), dense, SpladePooling("max")], device="cpu")

    def encode(texts: list[str]) -> list[str]:
        vectors = encoder.encode(texts, batch_size=BATCH, show_progress_bar=False)
        return [json.dumps(dict(row)) for row in encoder.decode(vectors)]

    return encode


def pyserini_splade(model: str, threads: int) -> Encode:
    """Return Pyserini's own encoder on a BERT of the same size."""
    import torch
    from pyserini.encode import SpladeDocumentEncoder
    from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForMaskedLM

    from pyserini_llm_sparse import SparseEncoder

    torch.set_num_threads(threads)
    source = SparseEncoder.load(model).checkpoint.folder
    shape = AutoConfig.from_pretrained(source)
    torch.manual_seed(7)
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, num_hidden_layers=shape.num_hidden_layers,
            # Two matrices instead of three.
            intermediate_size=shape.intermediate_size * 3 // 2, num_attention_heads=shape.num_attention_heads,
        )
    )  # fmt: skip
    bert.cls.predictions.bias.data.fill_(-1.5)  # random logits have a spread of about .5
    with tempfile.TemporaryDirectory() as folder:
        bert.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        encoder = SpladeDocumentEncoder(folder, device="cpu")

    def encode(texts: list[str]) -> list[str]:
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return [json.dumps(vector) for batch in batches for vector in encoder.encode(batch, max_length=LENGTH)]

    return encode


def products(model: str, threads: int) -> Encode:
    """Return the bare products of float32 matrices of the model's shapes."""
    import torch

    from pyserini_llm_sparse import SparseEncoder
    from pyserini_llm_sparse.encoder import batches_of

    torch.set_num_threads(threads)
    encoder = SparseEncoder.load(model, device="cpu", dtype="float32", document_max_length=LENGTH)
    backbone = encoder.checkpoint.backbone
    matrices = [module.weight.T for module in backbone.model.modules() if isinstance(module, torch.nn.Linear)]
    if not any(matrix.shape[1] == backbone.vocabulary_size for matrix in matrices):
        matrices.append(backbone.head_weight.T)

    @torch.inference_mode()
    def encode(texts: list[str]) -> None:
        lengths = [len(text.ids) for text in encoder.tokenization.token_ids(texts, "document")]
        order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
        for batch in batches_of(order, lengths, BATCH):
            rows = len(batch) * lengths[batch[0]]
            for matrix in matrices:
                inputs = torch.ones(rows, matrix.shape[0])
                for start in range(0, rows, 1024):  # no result as large as the vocabulary times all positions
                    inputs[start : start + 1024] @ matrix

    return encode


def worker(way: str, model: str, corpus: str, documents: int, threads: int) -> None:
    """Serve a way: load, then encode everything for each line on standard input, and print the seconds that it took."""
    texts = read_texts(corpus, documents)
    makers: dict[str, Callable[[str, int], Encode]] = {
        "loop": loop, "sentence-transformers": sentence_transformers, "pyserini splade": pyserini_splade,
        "products": products,
    }  # fmt: skip
    encode = makers[way](model, threads) if way in makers else ours(model, way, threads)
    encode(texts[:WARM_UP])
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        encode(texts)
        print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak()}), flush=True)


def read_texts(corpus: str, documents: int) -> list[str]:
    """Return the first documents of a BEIR corpus."""
    path = Path(corpus)
    records = lines(path.with_suffix("") if path.suffix == ".gz" and not path.with_suffix("").exists() else path)
    return [f"{record.get('title', '')} {record['text']}".strip() for record in islice(records, documents)]


def measure(ways: list[str], options: argparse.Namespace, model: str) -> dict[str, dict[str, float]]:
    """Run the rounds. Returns documents per second and peak memory in MB of each way."""
    base = [sys.executable, __file__, "--corpus", options.corpus, "--model", model]
    base += ["--documents", str(options.documents), "--threads", str(options.threads), "--worker"]
    running = {}
    for way in ways:
        if way.startswith("onnx"):
            subprocess.run([*base, way], input="", stdout=subprocess.DEVNULL, text=True, check=True)  # exports it
        running[way] = subprocess.Popen([*base, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _answer(way, running[way])
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, process in running.items():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found[way].append(_answer(way, process))
    for process in running.values():
        process.communicate()
    return {
        way: {
            "documents_per_second": options.documents / statistics.median(one["seconds"] for one in runs),
            "peak_mb": max(one["peak"] for one in runs),
        }
        for way, runs in found.items()
    }


def _answer(way: str, process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):  # libraries may print, too
            result: dict[str, float] = json.loads(line)
            return result
    raise SystemExit(f"encoding_speed: {way} failed; its message is above")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="a BEIR corpus.jsonl or corpus.jsonl.gz")
    parser.add_argument("--model", default="csplade", help="an encoder name")
    parser.add_argument("--shape", type=int, nargs=4, metavar=("WIDTH", "LAYERS", "FEED_FORWARD", "VOCABULARY"))
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--peer", choices=WAYS, default="torch fp32", help="what ratios are to")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.model, options.corpus, options.documents, options.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYSERINI_LLM_SPARSE_CACHE"] = folder  # exports of random models are nobody's
        model = options.model
        if options.shape:
            model = str(Path(folder) / "model")
            random_model(Path(model), options.shape, read_texts(options.corpus, 2000))
        figures = measure(options.ways, options, model)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    peer = figures.get(options.peer, next(iter(figures.values())))["documents_per_second"]
    print(f"| way | documents/s | of {options.peer} | peak MB |\n|---|---|---|---|")
    for way, figure in figures.items():
        speed = figure["documents_per_second"]
        print(f"| {way} | {speed:.1f} | {speed / peer:.2f} | {figure['peak_mb']:,.0f} |")


if __name__ == "__main__":
    main()
