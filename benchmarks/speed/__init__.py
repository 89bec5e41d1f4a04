"""The rows of `benchmarks/run.py`: one module an idea, each with `NAMES` and `rows(full)`."""
