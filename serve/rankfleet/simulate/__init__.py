"""A fleet against a virtual clock: the planner, queue and autoscaling functions that serve, under made-up or
recorded arrivals. Nothing here imports Ray or torch, or reads a clock."""
