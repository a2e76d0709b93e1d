"""The control socket: `stream-rnn ctl` talks to a running daemon through its state folder.

One line of JSON goes in, one comes out. What the verbs do is the runtime's; here are the socket,
its bounds, and who may speak.
"""
