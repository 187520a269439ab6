"""The export's gate and files, ONNX Runtime behind the encoder, and what either refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.errors import (
    DataError,
    LlmSparseError,
    PrerequisiteError,
    ResourceError,
    SpecMismatchError,
    UsageError,
)
from pyserini_llm_sparse.modelling.folder import ModelFolder
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from pyserini_llm_sparse.onnx.export.attempts import Attempts
from pyserini_llm_sparse.onnx.export.exporter import export_model
from pyserini_llm_sparse.onnx.export.number_formats import ATTEMPTS, Formats, same_formats
from pyserini_llm_sparse.onnx.export.verification import BOUNDS, Difference, rank_correlation, top_overlap
from pyserini_llm_sparse.onnx.graph.fused import FusedBody
from pyserini_llm_sparse.onnx.runtime.description import read_description
from pyserini_llm_sparse.onnx.runtime.providers import available_providers
from tests.checkpoints import TEXTS, causal_model, change_json, checkpoint, copied, native, vocabulary_size
from tests.exports import PRECISIONS, TERMS_PER_BLOCK, exported

NAME = "llama_bidirectional_untied"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export that the test may change."""
    return Path(shutil.copytree(exported(NAME), tmp_path / "export"))


def test_what_an_encoder_needs_travels_along() -> None:
    folder = exported("exportable", "int8")
    assert sorted(path.name for path in folder.iterdir()) == [
        "encoding_spec.json", "model.onnx", "model.onnx.data", "onnx_export.json", "query_term_weights.safetensors",
        "report.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    model, own = SparseEncoder.load(str(checkpoint("exportable"))), SparseEncoder.load(str(folder))
    assert own.spec == model.spec and own.vocabulary.terms.tolist() == model.vocabulary.terms.tolist()
    assert own.query_impacts(TEXTS) == model.query_impacts(TEXTS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_report_holds_what_was_measured_and_it_is_within_bounds(precision: str) -> None:
    report = json.loads((exported(NAME, precision) / "report.json").read_text())
    assert report["precision"] == precision and report["documents"] > 20 and report["versions"]["onnxruntime"]
    assert set(report["measured"]) == set(report["bounds"])
    assert all(report["measured"][name] <= bound for name, bound in report["bounds"].items())
    assert report["formats"] in [dict(formats) for formats in ATTEMPTS[precision]]  # type: ignore[index]


def graph(name: str, precision: str = "fp32") -> Any:
    import onnx

    return onnx.load(exported(name, precision) / "model.onnx", load_external_data=False).graph


def test_the_projection_is_made_in_blocks_of_terms() -> None:
    rows = [list(weight.dims) for weight in graph(NAME).initializer if weight.name.startswith("head")]
    assert sum(terms for terms, _ in rows) == vocabulary_size() and len(rows) > 2
    assert all(terms <= TERMS_PER_BLOCK for terms, _ in rows)


def test_weights_are_in_the_file_beside_the_graph_and_tied_ones_once() -> None:
    tied, untied = (exported(f"llama_bidirectional_{head}") for head in ("tied", "untied"))
    sizes = [(folder / "model.onnx.data").stat().st_size for folder in (tied, untied)]
    assert sizes[1] - sizes[0] >= 0.9 * vocabulary_size() * 64 * 4
    assert (untied / "model.onnx").stat().st_size < 40_000


def test_each_precision_has_its_products() -> None:
    operators = {precision: [node.op_type for node in graph(NAME, precision).node] for precision in PRECISIONS}
    assert {"MatMulIntegerToFloat", "MatMulInteger", "MatMulNBits"}.isdisjoint(operators["fp32"] + operators["fp16"])
    assert operators["int8"].count("MatMulIntegerToFloat") >= 5 * 2  # of two layers
    assert "MatMulInteger" in operators["int8"] and "MatMulInteger" in operators["int4"]  # the head's blocks
    assert operators["int4"].count("MatMulNBits") >= 5 * 2
    bits = [
        attribute.i
        for node in graph(NAME, "int4").node if node.op_type == "MatMulNBits"
        for attribute in node.attribute if attribute.name == "bits"
    ]  # fmt: skip
    assert set(bits) == {4}


def test_half_the_bits_make_half_the_file() -> None:
    sizes = [(exported(NAME, precision) / "model.onnx.data").stat().st_size for precision in ("fp32", "fp16")]
    assert 1.8 < sizes[0] / sizes[1] < 2.2


def test_a_precision_that_cannot_be_compared_here_is_refused(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in available_providers():
        pytest.skip("ONNX Runtime can compute on CUDA here")
    with pytest.raises(PrerequisiteError, match="bf16: ONNX Runtime computes it on a GPU alone"):
        export_model(str(checkpoint(NAME)), tmp_path / "out", precision="bf16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bits", [8, 4])
def test_blocks_are_as_close_as_their_bits_allow(bits: int) -> None:
    from pyserini_llm_sparse.onnx.graph.quantised import BLOCK_SIZE, quantised_blocks

    torch.manual_seed(1)
    weight = torch.randn(5, BLOCK_SIZE * 2 + 3) * torch.tensor([0.0, 1.0, 10.0, 1.0, 0.01])[:, None]
    values, scales = quantised_blocks(weight, bits)
    assert values.shape == (5, 3, BLOCK_SIZE * bits // 8) and scales.shape == (5, 3)
    if bits == 4:
        values = torch.stack([values & 15, values >> 4], dim=-1).flatten(2)
    found = ((values.float() - 2 ** (bits - 1)) * scales[..., None]).flatten(1)[:, : weight.shape[1]]
    steps = scales.abs().repeat_interleave(BLOCK_SIZE, 1)[:, : weight.shape[1]]
    # One step where the end opposite of the largest magnitude is cut off, half a step elsewhere.
    assert ((found - weight).abs() <= steps * 1.0001).all()
    assert ((found - weight).abs() <= steps * 0.5001).float().mean() > 0.95


def with_outliers(folder: Path) -> SparseEncoder:
    """Return a model of whose activations a few channels are far larger than the others, as in trained ones."""
    native(folder, settings={"hidden_size": 64}, attention="causal")
    encoder = SparseEncoder.load(str(folder), dtype="float32", device="cpu")
    with torch.inference_mode():
        for layer in encoder.engine.backbone.model.base_model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[:3] *= 40
            for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj,
                           layer.mlp.gate_proj, layer.mlp.up_proj):  # fmt: skip
                linear.weight[:, :3] /= 40
    return encoder


def test_balanced_layers_compute_the_same_and_lose_less_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = with_outliers(tmp_path / "model")
    expected = encoder.encode_documents(TEXTS).matrix.toarray()

    def error(formats: Formats) -> float:
        (tmp_path / "out").mkdir(exist_ok=True)
        attempts = Attempts(encoder, "int8", list(TEXTS), print)
        attempts.write_files(tmp_path / "out", formats)
        found = SparseEncoder.load(str(tmp_path / "out")).encode_documents(TEXTS).matrix.toarray()
        return float(np.abs(found - expected).sum() / expected.sum())

    assert error(same_formats("float32")) < 1e-5
    balanced = error(same_formats("int8"))
    monkeypatch.setattr(FusedBody, "calibrate", lambda body: nullcontext())
    assert balanced < 0.6 * error(same_formats("int8"))


def test_an_export_needs_neither_torch_nor_transformers_nor_onnx(root: Path) -> None:
    program = (
        "import sys; from pyserini_llm_sparse import SparseEncoder\n"
        "assert SparseEncoder.load(sys.argv[1]).document_impacts(['the wing'])[0]\n"
        "print({'torch', 'transformers', 'onnx'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", program, str(exported(NAME))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.check_output(command, cwd=root, env=environment, text=True).strip() == "set()"


def test_a_corpus_can_be_compared(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": str(n), "contents": f"{TEXTS[n % 4]} {n}"}) + "\n" for n in range(70)))
    report = export_model(str(checkpoint(NAME)), tmp_path / "out", corpus=str(corpus))
    assert report.documents == 64 and report.corpus == str(corpus)


def test_fields_named_with_the_model_are_the_export_s(tmp_path: Path) -> None:
    export_model(f"{checkpoint(NAME)},logit_scale=0.5,document_top_k=3", tmp_path / "out")
    found = SparseEncoder.load(str(tmp_path / "out"))
    model = SparseEncoder.load(str(checkpoint(NAME)), logit_scale=0.5, document_top_k=3)
    assert found.spec == model.spec
    np.testing.assert_allclose(
        found.encode_documents(TEXTS).matrix.toarray(), model.encode_documents(TEXTS).matrix.toarray(), atol=5e-5
    )


def test_out_of_bounds_ends_with_what_was_measured_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(BOUNDS, "int8", Difference(1e-9, 1e-9, 1e-9, 1e-9, 1e-9))
    output = tmp_path / "out"
    assert main(["export", "--model", str(checkpoint(NAME)), "--precision", "int8", "--output", str(output)]) == 6
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not written" in last and "weight error" in last and "at most 1e-09" in last and "--precision fp32" in last
    assert list(tmp_path.iterdir()) == []


def test_slower_formats_are_tried_until_the_bounds_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = export_model(str(checkpoint("qwen3_causal_tied")), tmp_path / "all", precision="int8")
    assert everything.formats == same_formats("int8")
    narrow = {**everything.bounds, "mean_weight_error": everything.measured["mean_weight_error"] * 0.2}
    monkeypatch.setitem(BOUNDS, "int8", Difference(**narrow))
    fewer = export_model(str(checkpoint("qwen3_causal_tied")), tmp_path / "fewer", precision="int8")
    assert fewer.formats == same_formats("float32", "int8")
    assert fewer.measured["mean_weight_error"] < everything.measured["mean_weight_error"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_that_overflows_is_refused(precision: str, tmp_path: Path) -> None:
    native(tmp_path / "model", settings={"hidden_size": 64}, attention="causal")
    encoder = SparseEncoder.load(str(tmp_path / "model"), dtype="float32", device="cpu")
    export = Attempts(encoder, precision, list(TEXTS), print)  # type: ignore[arg-type]
    with torch.inference_mode():
        encoder.engine.backbone.model.base_model.norm.weight[5] = float("nan")
    (tmp_path / "out").mkdir()
    export.write_files(tmp_path / "out", ATTEMPTS[precision][0])  # type: ignore[index]
    with pytest.raises(DataError, match="not finite"):
        SparseEncoder.load(str(tmp_path / "out")).document_impacts(TEXTS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"logit_scale": 2}, "logit_scale: cannot be changed"),
        ({"attention": "causal"}, "attention: cannot be changed"),
        ({"excluded_token_ids": "7"}, "excluded_token_ids: cannot be changed"),
        ({"device": "mps"}, "run on cpu, cuda or"),
        ({"dtype": "bfloat16"}, "computes in fp32"),
        ({"base": "x"}, "no adapter"),
    ],
)
def test_what_the_graph_fixes_cannot_be_changed(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SparseEncoder.load(str(exported(NAME)), **overrides)


def test_what_does_not_change_the_graph_can_be_named() -> None:
    encoder = SparseEncoder.load(str(exported(NAME)), device="cpu", dtype="float32", threads=1, document_top_k=2)
    assert encoder.document_impacts(["the wing"])[0] and encoder.device == torch.device("cpu")


def test_files_that_are_not_the_export_s_are_refused(export: Path) -> None:
    weights = export / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    weights.write_bytes(content)
    with pytest.raises(SpecMismatchError, match="not those of the export"):
        SparseEncoder.load(str(export))
    weights.unlink()
    with pytest.raises(ResourceError, match=r"model\.onnx\.data"):
        SparseEncoder.load(str(export))


def test_a_description_of_a_later_version_is_refused(export: Path) -> None:
    change_json(export / "onnx_export.json", version=2)
    with pytest.raises(DataError, match="export the model again"):
        SparseEncoder.load(str(export))


def test_an_export_has_no_torch_model() -> None:
    with pytest.raises(UsageError, match="an ONNX export, without torch's weights"):
        ModelFolder.at(exported(NAME)).require_language_model()
    for precision in PRECISIONS:
        with pytest.raises(UsageError, match="an ONNX export already"):
            export_model(str(exported(NAME, precision)), exported(NAME).parent / "again")


def test_a_text_longer_than_the_export_has_positions_is_refused() -> None:
    encoder = SparseEncoder.load(str(exported(NAME)))
    with pytest.raises(UsageError, match=r"512 positions"):
        encoder.encode_documents(["wing " * 2000], max_length=600)


def test_only_an_export_is_replaced_and_only_on_request(tmp_path: Path, export: Path) -> None:
    model = copied(NAME, tmp_path / "model")
    for place, message in ((model, "no ONNX export"), (export, "give --overwrite"), (model / "config.json", "a file")):
        with pytest.raises(UsageError, match=message):
            export_model(str(model), place)
    assert export_model(str(model), export, precision="int8", overwrite=True).precision == "int8"
    assert SparseEncoder.load(str(export)).loader.precision == "onnx int8"
    with pytest.raises(UsageError, match="precision int3"):
        export_model(str(model), tmp_path / "out", precision="int3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 48}, "no heads of 12 numbers"),
        ({"hidden_size": 64, "hidden_act": "gelu"}, "activation is gelu"),
        ({"hidden_size": 64, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
    ],
)
def test_a_model_that_the_fused_graph_cannot_express_is_refused(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    native(tmp_path / "model", settings=settings, attention="causal")
    with pytest.raises(DataError, match=message):
        export_model(str(tmp_path / "model"), tmp_path / "out", builder="fused")
    assert not (tmp_path / "out").exists()


def test_a_window_of_attention_bounds_the_texts(tmp_path: Path) -> None:
    native(tmp_path / "model", "mistral", settings={"hidden_size": 64}, attention="causal", document_max_length=32)
    change_json(tmp_path / "model" / "config.json", sliding_window=40)
    change_json(tmp_path / "model" / "encoding_spec.json", model_fingerprint="")
    export_model(str(tmp_path / "model"), tmp_path / "out")
    assert read_description(tmp_path / "out").positions == 40  # type: ignore[union-attr]
    with pytest.raises(DataError, match="a window of 40"):
        export_model(f"{tmp_path / 'model'},document_max_length=64", tmp_path / "longer", builder="fused")


def test_other_families_are_refused_by_the_fused_builder(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from pyserini_llm_sparse.modelling.checkpoint import save_checkpoint
    from pyserini_llm_sparse.modelling.spec import EncodingSpec
    from tests.checkpoints import transformers_tokenizer

    config = GPTNeoXConfig(
        vocab_size=vocabulary_size(), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    spec = EncodingSpec(attention="causal")
    save_checkpoint(tmp_path / "model", GPTNeoXForCausalLM(config), transformers_tokenizer(), spec)
    with pytest.raises(DataError, match="llama, mistral, qwen2, qwen3"):
        export_model(str(tmp_path / "model"), tmp_path / "out", builder="fused")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = exported(NAME), str(checkpoint(NAME))
    monkeypatch.setitem(sys.modules, package, None)  # as Python marks what cannot be imported
    with pytest.raises(PrerequisiteError, match=rf"{package}: .*pyserini-llm-sparse\[onnx\]"):
        export_model(model, tmp_path / "out")
    encoder = SparseEncoder.load(str(folder))
    if package == "onnx":
        assert encoder.document_impacts(["the wing"])[0]
    else:
        with pytest.raises(PrerequisiteError, match=r"pyserini-llm-sparse\[onnx\]"):
            encoder.document_impacts(["the wing"])


def test_an_old_or_incomplete_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    folder = str(exported(NAME))
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "__version__", "1.22.0")
        with pytest.raises(PrerequisiteError, match=r"1\.22\.0: too old"):
            _ = SparseEncoder.load(folder).engine
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider"])
    with pytest.raises(PrerequisiteError, match="has no CPUExecutionProvider"):
        _ = SparseEncoder.load(folder).engine


def test_a_graph_that_the_runtime_cannot_read_is_one_line(export: Path) -> None:
    (export / "model.onnx").write_bytes(b"nothing")
    description = json.loads((export / "onnx_export.json").read_text())
    from pyserini_llm_sparse.onnx.runtime.description import export_digest

    tokenizer = SparseEncoder.load(str(exported(NAME))).checkpoint.tokenizer
    change_json(export / "onnx_export.json", **{**description, "digest": export_digest(export, tokenizer)})
    with pytest.raises(LlmSparseError, match="cannot load the graph") as caught:
        SparseEncoder.load(str(export)).document_impacts(["the wing"])
    assert "\n" not in str(caught.value)


def test_an_all_empty_reference_proves_nothing(tmp_path: Path) -> None:
    model = causal_model("llama", vocabulary_size(), hidden_size=64)
    model.get_output_embeddings().weight.data.zero_()
    from pyserini_llm_sparse.modelling.checkpoint import save_checkpoint
    from pyserini_llm_sparse.modelling.spec import EncodingSpec
    from tests.checkpoints import transformers_tokenizer

    save_checkpoint(tmp_path / "model", model, transformers_tokenizer(), EncodingSpec(attention="causal"))
    with pytest.raises(DataError, match="all vectors are empty"):
        export_model(str(tmp_path / "model"), tmp_path / "out")


def test_the_overlap_counts_the_heaviest_terms() -> None:
    own = SparseVectors.from_dense([[3, 2, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    other = SparseVectors.from_dense([[3, 0, 1, 2], [0, 0, 0, 0], [0, 1, 0, 0]])
    assert top_overlap(own, own) == 1
    assert top_overlap(own, other, 2) == pytest.approx((1 / 2 + 0) / 2)


def test_the_correlation_is_of_ranks() -> None:
    scores = np.array([[1.0, 2, 3, 40], [5, 5, 5, 5]])
    assert rank_correlation(scores, scores**3) == pytest.approx(1)
    assert rank_correlation(scores[:1], -scores[:1]) == pytest.approx(-1)
    assert rank_correlation(scores[1:], scores[:1]) == 0


def test_a_measure_that_is_no_number_is_out_of_bounds() -> None:
    assert Difference(float("nan"), 0, 0, 0, 0).beyond(Difference(1, 1, 1, 1, 1)) == ["weight error nan, at most 1"]


def test_bounds_in_int8_are_wider() -> None:
    assert all(BOUNDS["fp32"].as_dict()[name] <= bound for name, bound in BOUNDS["int8"].as_dict().items())


def test_balanced_channels_give_the_same_product_with_less_error() -> None:
    from pyserini_llm_sparse.onnx.graph.calibration import balanced_channels
    from pyserini_llm_sparse.onnx.graph.quantised import as_quantised

    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(40, 64, generator=generator), torch.randn(90, 64, generator=generator)
    hidden[:, 5] *= 30  # a channel as trained models have it
    weight[:, 5] *= 4
    channels = balanced_channels(hidden.abs().amax(0), weight.abs().amax(0))
    wide, high = channels.of_hidden(hidden), channels.of_weight(weight)
    exact = hidden.double() @ weight.double().T
    np.testing.assert_allclose(wide.double() @ high.double().T, exact, rtol=1e-4, atol=1e-3)
    errors = [
        (as_quantised(rows) @ as_quantised(terms).T - exact).square().mean().sqrt()
        for rows, terms in ((hidden, weight), (wide, high))
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.skipif(sys.platform == "win32", reason="files there have no holes: the test would fill 3 GB")
def test_weights_beyond_two_gigabytes_are_found(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    from pyserini_llm_sparse.onnx.graph.writer import GraphWriter

    values = np.arange(2048, dtype=np.float32)
    with (tmp_path / "weights").open("wb") as stream:
        stream.seek(3 << 30)
        write = GraphWriter(stream, "weights")
        write.name(write.value("Add", "x", write.weight("values", values)), "y")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2048]) for name in "xy"]
    write.save(tmp_path / "graph", ends[:1], ends[1:], "test")
    session = onnxruntime.InferenceSession(tmp_path / "graph", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": values})[0], 2 * values)
