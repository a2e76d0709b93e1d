"""Benchmarks that take longer than `stream-rnn bench`; run as `python -m benchmarks.NAME`."""
