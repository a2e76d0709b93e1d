"""The native step: a small library with a C ABI that computes whole ticks on a processor.

It is built by an explicit command (`python -m stream_rnn.native`), never by a running daemon, and
it is optional: the pure-torch text of the learning rules is the definition, the judge, and what
runs where there is no library.
"""
