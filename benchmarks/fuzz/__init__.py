"""Seeded mutation fuzzing of everything that comes from outside: `make fuzz`."""
