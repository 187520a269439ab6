"""ONNX: a model as a graph that ends in the sparse head, its verification, and ONNX Runtime behind `SparseEncoder`."""

from __future__ import annotations
