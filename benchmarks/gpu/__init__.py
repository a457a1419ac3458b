"""The parts of benchmarks/gpu_suite.py: what it measures on a GPU."""
