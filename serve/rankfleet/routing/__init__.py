"""Decisions about a request: how long each tier would take, which one answers, which arm it belongs to.

Pure functions of (request, snapshot, now). Nothing here imports Ray or torch, or reads a clock.
"""
