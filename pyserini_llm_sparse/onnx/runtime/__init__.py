"""ONNX Runtime behind the engine's protocol: what an export says of itself, devices, sessions."""
