"""Published experiments, run again with this project's own pieces.

python -m benchmarks.reproduce NAME; how to run and what came out: benchmarks/RESULTS.md.
"""
