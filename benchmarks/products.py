"""The limit: nothing but the matrix products of a model's layers and head, of the padded batches that ours computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peers import BATCH, Encode
from random_models import LENGTH

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
ROWS = {"cpu": 1024, "cuda": 8192}  # of one product: no result as large as the vocabulary times all positions
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

Multiply = Callable[[int], Any]


def products(model: str, threads: int, precision: str = "fp32", device: str = "cpu") -> Encode:
    """Prepare the products of a model's shapes, with random numbers. Returns what does those that some texts need.

    Args:
        model: An encoder's name; its weights are not read.
        threads: CPU threads.
        precision: ``fp32``, ``bf16`` or ``fp16`` in torch; ``int8`` in ONNX Runtime, on the CPU alone.
        device: Where they are computed.
    """
    import torch

    from pyserini_llm_sparse import SparseEncoder
    from pyserini_llm_sparse.modelling.engine import best_batch_tokens

    torch.set_num_threads(threads)
    encoder = SparseEncoder.load(model, device="cpu", document_max_length=LENGTH)
    shapes = matrix_shapes(encoder.checkpoint)
    tokens = best_batch_tokens(torch.device(device).type, threads)
    most = ROWS[torch.device(device).type]
    if precision == "int8":
        multiply = [_int8_product(shape, threads) for shape in shapes]
    else:
        multiply = [_torch_product(shape, most, getattr(torch, _TYPES[precision]), device) for shape in shapes]

    def encode(texts: list[str]) -> None:
        for rows in padded_rows(encoder, texts, tokens):
            for one in multiply:
                for start in range(0, rows, most):
                    one(min(most, rows - start))
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    return encode


def matrix_shapes(checkpoint: Any) -> list[tuple[int, int]]:
    """Return the shape (inputs, outputs) of each matrix of a checkpoint's layers, and of its head."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint.base or checkpoint.folder))
    return [
        (module.in_features, module.out_features) for module in model.modules() if isinstance(module, torch.nn.Linear)
    ]


def padded_rows(encoder: Any, texts: list[str], tokens: int) -> list[int]:
    """Return the number of positions, padding included, of each batch of so many tokens that would be computed."""
    from pyserini_llm_sparse.modelling.vectors import SparseVectors

    rows: list[int] = []

    class Counting:
        batch_tokens = tokens

        def encode(self, texts: Sequence[Any], top_k: int | None) -> SparseVectors:
            rows.append(len(texts) * max(len(text.ids) for text in texts))
            return SparseVectors.empty(len(texts), encoder.checkpoint.vocabulary_size)

    encoder._engine = Counting()
    encoder.encode_documents(texts, batch_size=BATCH)
    return rows


def _torch_product(shape: tuple[int, int], rows: int, dtype: Any, device: str) -> Multiply:
    """Return what multiplies some rows with a matrix of a layer's shape in torch."""
    import torch

    matrix = torch.randn(shape[1], shape[0], device=device).to(dtype)
    inputs = torch.randn(rows, shape[0], device=device).to(dtype)

    @torch.inference_mode()
    def multiply(count: int) -> Any:
        return torch.nn.functional.linear(inputs[:count], matrix)

    return multiply


def _int8_product(shape: tuple[int, int], threads: int) -> Multiply:
    """Return the same in int8, to int32, in ONNX Runtime: both factors are quantised already."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(7)
    matrix = chance.integers(-127, 127, shape, dtype=np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "matrix"], ["products"])],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, ["count", shape[0]])],
        [helper.make_tensor_value_info("products", TensorProto.INT32, ["count", shape[1]])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    opsets = [helper.make_opsetid("", 20)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=min(10, onnx.IR_VERSION))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Each product has a session, whose threads would otherwise wait busily while the next one computes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = chance.integers(0, 255, (ROWS["cpu"], shape[0]), dtype=np.uint8)
    return lambda count: session.run(None, {"rows": inputs[:count]})
