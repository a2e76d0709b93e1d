"""Updates: what is done with a gradient. Each commits only where `ok`."""

from stream_rnn.update.adam import Adam
from stream_rnn.update.base import Update
from stream_rnn.update.fptt import Fptt
from stream_rnn.update.obgd import Obgd
from stream_rnn.update.sgd import Sgd

UPDATES: dict[str, type[Update]] = {"adam": Adam, "sgd": Sgd, "obgd": Obgd, "fptt": Fptt}

__all__ = ["UPDATES", "Adam", "Fptt", "Obgd", "Sgd", "Update"]
