"""Measuring this project against others on the same machine, texts and model."""
