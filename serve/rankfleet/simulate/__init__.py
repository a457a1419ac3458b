"""The simulator: planner, queue and autoscaling policy on a virtual clock, under random or recorded arrivals.

It runs the functions that serve traffic. Nothing here imports Ray or torch, or reads a clock."""
