"""Benchmarks: everything compared runs in one process tree, alternating, and medians are reported."""
