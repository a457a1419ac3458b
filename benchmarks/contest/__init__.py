"""This engine against its peers on the same machine, texts and model."""
