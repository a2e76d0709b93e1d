"""Replay a CSV or JSONL file into a ZeroMQ socket, one JSON message per row, numbered.

Or turn a CSV file into JSON lines for the jsonl source (--to).

    python examples/replay.py taxi.csv --connect tcp://127.0.0.1:5555 --rate 500
    python examples/replay.py events.jsonl --bind tcp://127.0.0.1:5555 --pattern pub --topic load

Stops by itself at the end, once the messages have left. PUSH waits for a reader that is slow or not
there yet, and loses nothing on the way; PUB drops what nobody takes, so it waits a moment for
subscribers (--wait) before it begins. Needs pyzmq, nothing else.
"""

import argparse
import csv
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import zmq


def value_of(text):
    """A cell of a CSV file: a whole number, a number, null where it is empty, or the text."""
    if text == "":
        return None
    for convert in (int, float):
        try:
            number = convert(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text  # JSON knows no NaN
    return text


def csv_records(path: Path, skip_lines: int, columns: list[str] | None, delimiter: str) -> Iterator:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=delimiter)
        names = columns or next(rows, [])
        if not names:
            sys.exit(f"{path} is empty: expected a line with the names of the columns")
        if len(names) == 1 and (other := set(names[0]) & set(";\t|")):
            sys.exit(f"{path}: one column, {names[0][:60]!r}; try --delimiter {min(other)!r}")
        for row in itertools.islice(rows, skip_lines, None):
            if len(row) >= len(names):
                yield dict(zip(names, map(value_of, row), strict=False))
            elif row:
                sys.exit(f"{path}, line {rows.line_num}: {len(row)} cells for {len(names)} columns")


def jsonl_records(path: Path, skip_lines: int) -> Iterator:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(itertools.islice(file, skip_lines, None), skip_lines + 1):
            if line.isspace():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                sys.exit(f"{path}, line {number}: no JSON: {error}")


def frames_of(record: dict, number: int, sequence: str, topic: str) -> list[bytes]:
    """One message: [topic,] [number,] payload, as the zeromq source takes it."""
    frames = [topic.encode()] if topic else []
    if sequence == "frame":
        frames.append(number.to_bytes(8, "big"))
    elif sequence.startswith("field:"):
        record = record | {sequence.removeprefix("field:"): number}
    return [*frames, json.dumps(record, separators=(",", ":")).encode()]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help=".csv, or one JSON object per line")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--connect", metavar="ADDRESS", help="e.g. tcp://127.0.0.1:5555")
    place.add_argument("--bind", metavar="ADDRESS")
    place.add_argument("--to", type=Path, metavar="FILE", help="write JSON lines to a file instead")
    parser.add_argument("--pattern", choices=["push", "pub"], default="push")
    parser.add_argument("--topic", default="", help="pub only: a frame before the payload")
    parser.add_argument("--sequence", default="field:seq", help="field:NAME, frame or none")
    parser.add_argument("--rate", type=float, help="messages per second; else as fast as they go")
    parser.add_argument("--max-events", type=int, help="stop after this many")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds that pub waits to begin")
    parser.add_argument("--linger", type=float, default=600.0, help="seconds to wait for a reader")
    parser.add_argument("--skip-lines", type=int, default=0, help="rows to drop after the header")
    parser.add_argument("--columns", help="a,b,c: names of the first columns; no header row")
    parser.add_argument("--delimiter", default=",")
    given = parser.parse_args()
    if given.rate is not None and not given.rate > 0:
        parser.error(f"--rate must be positive, got {given.rate}")
    if given.topic and given.pattern != "pub":
        parser.error("--topic: only --pattern pub has topics")
    return given


def main() -> int:
    given = arguments()
    if given.file.suffix.lower() == ".csv":
        columns = given.columns.split(",") if given.columns else None
        records = csv_records(given.file, given.skip_lines, columns, given.delimiter)
    else:
        records = jsonl_records(given.file, given.skip_lines)
    if given.to:
        lines = (json.dumps(r) + "\n" for r in itertools.islice(records, given.max_events))
        given.to.write_text("".join(lines))
        return 0
    context = zmq.Context()
    socket = context.socket(zmq.PUSH if given.pattern == "push" else zmq.PUB)
    socket.set(zmq.SNDHWM, 1000)
    socket.set(zmq.SNDTIMEO, int(given.linger * 1000))
    if given.bind:
        socket.bind(given.bind)
    else:
        socket.connect(given.connect)
    if given.pattern == "pub":
        time.sleep(given.wait)
    count, linger_s = 0, given.linger
    started = time.monotonic()
    try:
        for record in itertools.islice(records, given.max_events):
            if given.rate:
                time.sleep(max(0.0, started + count / given.rate - time.monotonic()))
            socket.send_multipart(frames_of(record, count, given.sequence, given.topic))
            count += 1
    except zmq.Again:
        sys.stderr.write(f"replay: no reader for {given.linger:g} s, gave up\n")
        linger_s = 0.0
    except KeyboardInterrupt:
        linger_s = 0.0
    finally:
        seconds = time.monotonic() - started
        context.destroy(linger=int(linger_s * 1000))  # waits for what is still queued
    sys.stderr.write(f"replay: {count} messages in {seconds:.1f} s\n")
    return 0 if linger_s > 0 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UnicodeDecodeError as wrong:
        sys.exit(f"replay: {sys.argv[1]}: {wrong}; convert it: iconv -f LATIN1 -t UTF-8")
    except (OSError, csv.Error, zmq.ZMQError) as wrong:
        sys.exit(f"replay: {wrong}")
