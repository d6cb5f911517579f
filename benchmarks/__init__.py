"""Benchmarks: `python -m benchmarks` runs all of them and updates benchmarks/results.json."""
