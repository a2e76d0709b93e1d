"""Events -> predictions: blocks, ticks, and the lines that come of them."""
