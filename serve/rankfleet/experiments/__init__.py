"""Reads what routers have written of their requests."""
