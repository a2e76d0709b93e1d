"""The other end: asks a running daemon, and says why there is no answer."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import msgspec

from stream_rnn.control.line import MAX_ANSWER_BYTES, Answer, BadLine, Request, read_line
from stream_rnn.control.place import NAME, address, peer

RETRY_S = 0.05
GRACE_S = 1.0  # the daemon itself says when it is late


class NoAnswer(Exception):
    """No daemon answered; the text says why and what to do."""


def ask(directory: Path, verb: str, argument: str, patience_s: float) -> Answer:
    """Ask the daemon of a state folder.

    Raises:
        NoAnswer: none runs there, it may not be asked, or it does not answer in time.
    """
    request = Request(verb, argument, patience_s)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(patience_s)
        pid = _connect(connection, directory, patience_s)
        try:
            connection.sendall(msgspec.json.encode(request) + b"\n")
        except OSError as error:
            # it may have answered before it read, e.g. that it is busy
            if not isinstance(error, BrokenPipeError | ConnectionResetError):
                raise NoAnswer(_silent(pid, patience_s)) from error
        try:
            line = read_line(connection, MAX_ANSWER_BYTES, patience_s + GRACE_S)
            answer: object = msgspec.json.decode(line) if line else None
        except TimeoutError as error:
            raise NoAnswer(_silent(pid, patience_s)) from error
        except (OSError, msgspec.MsgspecError, BadLine) as error:
            raise NoAnswer(f"process {pid} gave no sound answer: {error}") from error
    if not isinstance(answer, dict):
        raise NoAnswer(f"process {pid} left without an answer; see its log")
    return answer


def _connect(connection: socket.socket, directory: Path, patience_s: float) -> int:
    until = time.monotonic() + patience_s
    try:
        with address(directory) as short:
            while True:
                try:
                    connection.connect(short)
                    break
                except BlockingIOError:  # its queue is full: others ask too, or it is stopped
                    if time.monotonic() >= until:
                        raise
                    time.sleep(RETRY_S)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoAnswer(
            f"no daemon runs on {directory} (nobody listens on its {NAME}); start it with "
            "`stream-rnn run`"
        ) from error
    except PermissionError as error:
        raise NoAnswer(
            f"{directory / NAME} may not be used by this user; be the daemon's user, or root"
        ) from error
    except (TimeoutError, BlockingIOError) as error:
        raise NoAnswer(
            f"the daemon on {directory} takes no connection: it is stopped or hung; its process "
            f"is in {directory / 'lock'}"
        ) from error
    except OSError as error:
        raise NoAnswer(f"{directory / NAME}: {error.strerror or error}") from error
    return peer(connection)[0]


def _silent(pid: int, patience_s: float) -> str:
    text = f"process {pid} has not answered within {patience_s:g} s"
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return f"{text}, and its state cannot be seen"
    if state in "Tt":
        return f"{text}: it is stopped; wake it with kill -CONT {pid}"
    return f"{text}: it is hung or overloaded (state {state}); look at its log"
