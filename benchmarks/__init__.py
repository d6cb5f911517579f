"""Speed, measured. `python -m benchmarks` runs all and rewrites benchmarks/results.json."""
