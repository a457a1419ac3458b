"""Model folders on disk: configs, tensors, digests."""
