"""Answers from what has been learned: without waiting for a learning step, without changing it."""
