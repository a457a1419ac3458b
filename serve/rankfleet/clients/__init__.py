"""Clients of servers that rerank: Rankfleet's own, and those of other wire formats."""
