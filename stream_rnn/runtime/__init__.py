"""The loop and what belongs to it: connections, outputs, the order of a checkpoint, watching."""
