"""Encoders and heads, one file a family."""
