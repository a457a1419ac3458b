"""Packed batches, and back-ends that compute attention over them."""
