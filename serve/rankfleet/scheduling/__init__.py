"""Decisions about waiting work: what a replica scores next, and how many replicas there should be.

Pure state machines with time as an argument. Nothing here imports Ray or torch, or reads a clock.
"""
