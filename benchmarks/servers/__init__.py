"""Whole servers side by side: Rankfleet, infinity, vLLM and a bare Serve application, on the same model and texts."""
