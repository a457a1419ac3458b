"""The simulator: the router, the replicas' workers and the autoscaling policy on a virtual clock, under random or
recorded arrivals.

It runs the coroutines that serve traffic. Simulated are the clients, the texts, of which only the lengths matter, the
devices, which take the time of their latency model, and the start of replicas; replicas are not lost. Nothing here
imports Ray or torch, or reads a clock.
"""
