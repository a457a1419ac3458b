"""Types, errors and configuration. Nothing here imports Ray or torch, or reads a clock."""
