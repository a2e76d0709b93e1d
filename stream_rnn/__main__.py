"""`python -m stream_rnn`."""

from stream_rnn.cli import main

if __name__ == "__main__":
    main()
