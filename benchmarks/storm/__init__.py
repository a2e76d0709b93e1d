"""Daemons that are killed at the worst moment, and the proof that nothing came of it."""
