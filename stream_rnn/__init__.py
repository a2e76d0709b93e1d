"""Online learning of recurrent networks on unbounded event streams."""

__version__ = "0.1.0"
