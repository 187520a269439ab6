"""Small real checkpoints in the published layouts: random seeded weights, tokenizers trained here on a few sentences.

`checkpoint(name)` builds one at its first use and keeps it for the session; nobody may write into what it returns
(`copied` gives a copy). The builders below it show what each layout consists of.
"""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pyserini_llm_sparse.modelling.checkpoint import save_checkpoint
from pyserini_llm_sparse.modelling.spec import EncodingSpec

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ATTENTIONS = ("causal", "echo", "bidirectional")
TEXTS = (
    "The wind lifts the wing of a small plane.",
    "Köln liegt am Rhein; 東京 is far away.",
    "cells",
    "A heart that beats too fast needs a quiet doctor, a long night, and then some more rest in the morning.",
    "2,718 users asked for \t tabs\nand new lines",
)
SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}

_BUILDERS: dict[str, Callable[[Path], None]] = {}


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="pyserini-llm-sparse-checkpoints-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@cache
def checkpoint(name: str) -> Path:
    """Return the directory of a checkpoint, one of the names registered below."""
    folder = _root() / name
    folder.mkdir()
    _BUILDERS[name](folder)
    return folder


def copied(name: str, target: Path) -> Path:
    """Return a copy of a checkpoint that the test may change."""
    return Path(shutil.copytree(checkpoint(name), target))


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        content.pop(key, None)
        if value is not None:
            content[key] = value
    path.write_text(json.dumps(content), encoding="utf-8")


@cache
def sentences() -> list[str]:
    """A few hundred sentences with enough variety for a tokenizer to learn words and pieces of words."""
    chance = random.Random(7)
    nouns = ["plane", "wing", "wind", "heart", "doctor", "query", "document", "weight", "lake", "river", "city", "cell"]
    verbs = ["lifts", "needs", "finds", "crosses", "weighs", "reads", "follows", "leaves", "beats", "shows"]
    rest = [
        "at night",
        "in the morning",
        "far away",
        "without rest",
        "am Rhein",
        "in Köln",
        "of 東京",
        "for 2,718 users",
    ]
    return [
        f"The {chance.choice(nouns)} {chance.choice(verbs)} a {chance.choice(nouns)}{chance.choice(['s', '', 'ing'])} "
        f"{chance.choice(rest)}."
        for _ in range(300)
    ]


@cache
def byte_level_tokenizer() -> Tokenizer:
    """Byte-level BPE as Llama 3 and Qwen have it: no normaliser, no token is ever unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|begin|>", "<|end|>", "<|pad|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.add_tokens([AddedToken("two words", normalized=False), "\t\t"])
    return tokenizer


@cache
def metaspace_tokenizer() -> Tokenizer:
    """SentencePiece-like BPE as Llama 2 and Mistral have it: white space is ▁, unknown characters are bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        max_token_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.add_tokens(["\n", "\t"])
    return tokenizer


@cache
def word_piece_tokenizer() -> Tokenizer:
    """WordPiece as BERT has it: lower case, pieces inside words start with ##."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level_tokenizer,
    "metaspace": metaspace_tokenizer,
    "word_piece": word_piece_tokenizer,
}


def transformers_tokenizer(kind: str = "byte_level") -> PreTrainedTokenizerFast:
    """Return a tokenizer with its special tokens named, as a published one has them."""
    special = {
        "byte_level": {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"},
        "metaspace": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "word_piece": {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    }[kind]
    copy = Tokenizer.from_str(TOKENIZERS[kind]().to_str())
    return PreTrainedTokenizerFast(tokenizer_object=copy, **special)


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """Return the WordPiece tokenizer with BERT's template: [CLS] and [SEP] are put around a text."""
    tokenizer = transformers_tokenizer("word_piece")
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    return tokenizer


def vocabulary_size() -> int:
    """Number of tokens of the byte-level tokenizer, and of the models that use it."""
    return len(transformers_tokenizer())


def causal_model(family: str, vocabulary_size: int, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """Make a model with random weights, large enough for clear maxima, whose logits are negative for most terms."""
    classes = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    own: dict[str, Any] = {"initializer_range": 0.3, "tie_word_embeddings": family == "qwen3", **SMALL, **settings}
    if family == "mistral":
        own["sliding_window"] = None
    if family == "qwen3":
        own.setdefault("head_dim", 16)
    own.setdefault("bos_token_id", 0)
    own.setdefault("eos_token_id", 1)
    config = getattr(transformers, f"{classes[family]}Config")(vocab_size=vocabulary_size, **own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = getattr(transformers, f"{classes[family]}ForCausalLM")(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)  # Qwen2's start at 0, and would test nothing
        # One direction that all texts share and that speaks against all terms: the vectors become sparse.
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            table.data[:, 0] = 2.0
        for layer in model.base_model.layers:
            layer.self_attn.o_proj.weight.data[0] = 0
            layer.mlp.down_proj.weight.data[0] = 0
        model.base_model.norm.weight.data[0] = -6.0
    return model.eval()


def native(
    folder: Path,
    family: str = "llama",
    *,
    spare_ids: int = 0,
    settings: dict[str, Any] | None = None,
    **spec_fields: Any,
) -> None:
    """Write a checkpoint in our own layout; `spare_ids` rows of the embedding have no token."""
    kind = "metaspace" if family == "mistral" else "byte_level"
    tokenizer = transformers_tokenizer(kind)
    model = causal_model(family, len(tokenizer) + spare_ids, **(settings or {}))
    spec = EncodingSpec(**{"attention": "causal", "query_max_length": 16, "document_max_length": 32, **spec_fields})
    weights = None
    if spec.query_encoder == "inference-free":
        weights = np.linspace(-0.5, 4.5, len(tokenizer) + spare_ids, dtype=np.float32)
    save_checkpoint(folder, model, tokenizer, spec, weights)


def _register(name: str, builder: Callable[[Path], None]) -> None:
    _BUILDERS[name] = builder


def _registered(builder: Callable[[Path], None]) -> Callable[[Path], None]:
    _register(builder.__name__, builder)
    return builder


for _family in FAMILIES:
    for _attention in ATTENTIONS:
        _register(
            f"{_family}_{_attention}",
            lambda folder, family=_family, attention=_attention: native(  # type: ignore[misc]
                folder, family, attention=attention
            ),
        )


# As above, but with heads of 16 numbers, which ONNX Runtime's attention can take, and the output layer tied or not.
EXPORTABLE: dict[str, Any] = {"hidden_size": 64}
for _family in FAMILIES:
    for _attention in ATTENTIONS:
        for _tied in (True, False):
            _register(
                f"{_family}_{_attention}_{'tied' if _tied else 'untied'}",
                lambda folder, family=_family, attention=_attention, tied=_tied: native(  # type: ignore[misc]
                    folder, family, attention=attention, settings={**EXPORTABLE, "tie_word_embeddings": tied}
                ),
            )


@_registered
def inference_free(folder: Path) -> None:
    native(folder, attention="bidirectional", query_encoder="inference-free", query_term_counts=True)


@_registered
def exportable(folder: Path) -> None:
    """Every field of the spec that an ONNX export must carry or compute; a vocabulary larger than the tokenizer's."""
    native(
        folder, "qwen3", spare_ids=40, settings=EXPORTABLE, attention="bidirectional", add_bos=True, add_eos=True,
        query_prefix="query:", document_prefix="passage:", pooled_span="text", logit_scale=64**-0.25,
        excluded_token_ids=(0, 1, 2, 300), document_top_k=50, query_encoder="inference-free",
    )  # fmt: skip


@_registered
def folded(folder: Path) -> None:
    """Terms that tokens of one word share, over texts in lower case."""
    native(
        folder, settings=EXPORTABLE, attention="echo", term_folding="surface", text_normalisation="lowercase",
        excluded_token_ids=(300,),
    )  # fmt: skip


# Scalings of the rotary positions that do not depend on a text's length.
ROPES: dict[str, dict[str, Any]] = {
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
    },
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
}  # fmt: skip
for _rope, _settings in ROPES.items():
    _register(
        f"{_rope}_rope",
        lambda folder, rope=_rope, settings=_settings: native(  # type: ignore[misc]
            folder,
            settings={**EXPORTABLE, "rope_parameters": {"rope_type": rope, "rope_theta": 10000.0, **settings}},
        ),
    )


@_registered
def heads_of_24(folder: Path) -> None:
    """Heads of a size that is no power of two."""
    native(folder, settings={**EXPORTABLE, "hidden_size": 96})


@_registered
def exportable_adapter(folder: Path) -> None:
    """A LoRA adapter over a model with heads of 16 numbers."""
    base = folder / "base"
    base.mkdir()
    native(base, "llama", settings=EXPORTABLE)
    _adapt(folder, base)


@_registered
def spare_ids(folder: Path) -> None:
    """A vocabulary larger than the tokenizer's, as Qwen3's."""
    native(folder, "qwen3", spare_ids=40, add_bos=False)


@_registered
def without_spec(folder: Path) -> None:
    """A causal language model as it is published, sharded, with a tokenizer and no encoding spec."""
    tokenizer = transformers_tokenizer()
    causal_model("llama", len(tokenizer)).save_pretrained(folder, max_shard_size="100KB")
    tokenizer.save_pretrained(folder)


@_registered
def without_tokenizer(folder: Path) -> None:
    """As LACONIC is published: weights and configuration only."""
    causal_model("llama", len(transformers_tokenizer())).save_pretrained(folder)


@_registered
def bin_only(folder: Path) -> None:
    """Weights in PyTorch's old pickled form only."""
    without_spec(folder)
    state = causal_model("llama", len(transformers_tokenizer())).state_dict()
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save(state, folder / "pytorch_model.bin")


@_registered
def adapter(folder: Path) -> None:
    """A LoRA adapter over `without_spec`, as Lion is published, with an encoding spec beside it."""
    _adapt(folder, checkpoint("without_spec"))


def _adapt(folder: Path, base: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a renamed attribute
        torch.manual_seed(1)
        adapted = get_peft_model(
            model,
            LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False),
        )
    adapted.save_pretrained(str(folder))
    EncodingSpec(attention="bidirectional").save(folder)


@_registered
def headless(folder: Path) -> None:
    """A Llama body without its output layer, as dense encoders are published."""
    causal_model("llama", len(transformers_tokenizer())).base_model.save_pretrained(folder)
    transformers_tokenizer().save_pretrained(folder)


@_registered
def masked_language_model(folder: Path) -> None:
    """BERT with its language modelling head, as SPLADE is published."""
    tokenizer = bert_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@_registered
def encoder_decoder(folder: Path) -> None:
    tokenizer = transformers_tokenizer("word_piece")
    config = transformers.T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sentence_transformers(folder: Path, *types: str) -> None:
    """The directory of a sentence-transformers model with the given modules (layout of its `save`)."""
    masked_language_model(folder)
    modules = [
        {"idx": number, "name": str(number), "path": "" if number == 0 else f"{number}_{kind}", "type": f"st.{kind}"}
        for number, kind in enumerate(types)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "dot"}', encoding="utf-8")


@_registered
def dense_sentence_transformers(folder: Path) -> None:
    _sentence_transformers(folder, "Transformer", "Pooling")


@_registered
def sparse_sentence_transformers(folder: Path) -> None:
    _sentence_transformers(folder, "Transformer", "Dense", "SpladePooling")
