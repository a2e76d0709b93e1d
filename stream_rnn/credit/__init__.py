"""Credit rules: who is to blame. Each turns linearizations and dL/ds into dL/dW, online."""

from stream_rnn.credit.base import Credit
from stream_rnn.credit.fallback import Fallback
from stream_rnn.credit.kf import Kf
from stream_rnn.credit.ok import Ok
from stream_rnn.credit.rtrl import Rtrl
from stream_rnn.credit.tbptt import Tbptt

RULES: dict[str, type[Credit]] = {"rtrl": Rtrl, "kf": Kf, "ok": Ok, "tbptt": Tbptt}

__all__ = ["RULES", "Credit", "Fallback", "Kf", "Ok", "Rtrl", "Tbptt"]
