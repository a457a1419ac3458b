"""Encoders in PyTorch's operations, one file a family, and heads."""
