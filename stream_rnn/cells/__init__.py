"""Cells: the forward pass of one step and its closed-form derivatives. No state is held."""

from stream_rnn.cells.base import Cell
from stream_rnn.cells.gru import Gru
from stream_rnn.cells.lstm import Lstm
from stream_rnn.cells.rhn import Rhn
from stream_rnn.cells.tanh import Tanh

CELLS: dict[str, type[Cell]] = {"tanh": Tanh, "gru": Gru, "lstm": Lstm, "rhn": Rhn}

__all__ = ["CELLS", "Cell", "Gru", "Lstm", "Rhn", "Tanh"]
