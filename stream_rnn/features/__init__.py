"""Records -> rows of numbers; every value read with suspicion."""
