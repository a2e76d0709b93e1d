"""`stream-rnn bench`: how fast this machine learns, beside what it could not avoid."""
