"""Sentence encoders that users bring: found on this machine, run with ONNX Runtime, copied into bundles."""
