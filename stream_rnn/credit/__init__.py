"""Credit rules: who is to blame. Each turns linearizations and dL/ds into dL/dW, online."""

from stream_rnn.credit.adaptive_tbptt import AdaptiveTbptt
from stream_rnn.credit.base import Credit
from stream_rnn.credit.fallback import Fallback
from stream_rnn.credit.kf import Kf
from stream_rnn.credit.ok import Ok
from stream_rnn.credit.rtrl import Rtrl
from stream_rnn.credit.segmented import Segmented
from stream_rnn.credit.snap import Snap1
from stream_rnn.credit.tbptt import Tbptt
from stream_rnn.credit.uoro import Uoro

RULES: dict[str, type[Credit]] = {
    "rtrl": Rtrl,
    "kf": Kf,
    "ok": Ok,
    "tbptt": Tbptt,
    "adaptive_tbptt": AdaptiveTbptt,
    "uoro": Uoro,
    "snap1": Snap1,
}

__all__ = [
    "RULES",
    "AdaptiveTbptt",
    "Credit",
    "Fallback",
    "Kf",
    "Ok",
    "Rtrl",
    "Segmented",
    "Snap1",
    "Tbptt",
    "Uoro",
]
