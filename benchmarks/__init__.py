"""What the tollbooth costs, as ratios to a bare FastAPI route: ``python -m benchmarks``. See ``docs/benchmarks.md``."""
