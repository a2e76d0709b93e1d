"""`python -m stream_rnn.native`: build the library, unless it is there, and say what it offers."""

from __future__ import annotations

import sys
import time

from stream_rnn.native import loading
from stream_rnn.native.build import BuildError, build, built_path


def main() -> int:
    """Exit code 0 if the library is there and loads, else 1."""
    was_there, start = built_path().is_file(), time.perf_counter()
    try:
        path = build()
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    how = "is there" if was_there else f"built in {time.perf_counter() - start:.1f} s"
    loading.forget()  # whether there was one before
    found = loading.find()
    sys.stdout.write(f"{path}: {how}\n{loading.describe()}\n")
    return 0 if found is not None else 1


if __name__ == "__main__":
    sys.exit(main())
