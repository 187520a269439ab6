"""Models of any size with random weights, which cost as much time as trained ones."""

from __future__ import annotations

from pathlib import Path

LENGTH = 256  # tokens of a document at most
ACTIVE_SHARE = 0.01  # of the vocabulary, in a document
SHAPES = {  # width, layers, feed-forward, vocabulary
    "0.1B": [768, 12, 2048, 32000],
    "1B": [2048, 16, 8192, 128256],
}


def random_llama(folder: Path, shape: list[int], texts: list[str], dtype: str = "float32") -> None:
    """Write a Llama with random weights, and with as many active terms as a trained one.

    Args:
        folder: The model's directory.
        shape: Width, layers, feed-forward and vocabulary; heads have 64 numbers.
        texts: The tokenizer is trained on them.
        dtype: Type of the weights in the file.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from pyserini_llm_sparse.modelling.checkpoint import save_checkpoint
    from pyserini_llm_sparse.modelling.spec import EncodingSpec

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
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    ).eval()
    # One dimension is nearly the same in all states: the head reads a threshold from it.
    model.model.embed_tokens.weight.data[:, 0] = 0.5 * width**0.5
    with torch.inference_mode():
        ids = tokenizer(texts[:4], truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
        states = model.model(**ids).last_hidden_state
        model.lm_head.weight[:, 0] = 0
        logits = [
            (row[mask.bool()] @ model.lm_head.weight.T).amax(0)
            for row, mask in zip(states, ids["attention_mask"], strict=True)
        ]
        threshold = torch.stack(logits).quantile(1 - ACTIVE_SHARE, dim=1).mean()
        model.lm_head.weight[:, 0] = -threshold / states[ids["attention_mask"].bool()][:, 0].mean()
    spec = EncodingSpec(attention="causal", document_max_length=LENGTH, query_max_length=LENGTH)
    save_checkpoint(folder, model.to(getattr(torch, dtype)), tokenizer, spec)


def random_bert(folder: Path, model: str, texts: list[str] | None = None, terms: int = 30) -> None:
    """Write a BERT with random weights of the same width, depth, vocabulary and tokenizer as a model of ours.

    Args:
        folder: Its directory.
        model: The name of the model whose size it takes.
        texts: Have about `terms` active terms each; by default a document has about a hundredth of the vocabulary.
        terms: See there.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForMaskedLM

    from pyserini_llm_sparse import SparseEncoder

    source = SparseEncoder.load(model).checkpoint.folder
    shape = AutoConfig.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    torch.manual_seed(7)
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_hidden_layers,
            # Two matrices instead of three.
            intermediate_size=shape.intermediate_size * 3 // 2,
            num_attention_heads=shape.num_attention_heads,
            max_position_embeddings=max(512, shape.max_position_embeddings),
        )
    ).eval()
    bias = -1.5  # random logits have a spread of about .5
    if texts:
        with torch.inference_mode():
            rows = [bert(**tokenizer(text, return_tensors="pt")).logits[0].amax(0) for text in texts]
        bias = -float(torch.stack(rows).quantile(1 - terms / shape.vocab_size, dim=1).median())
    bert.cls.predictions.bias.data.fill_(bias)
    bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
