"""Packed batches, and attention over them."""
