"""From the tables of a configuration to a model: what is chosen, built and announced."""
