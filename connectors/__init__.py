"""Sources and sinks, one module per protocol; each imports `stream_rnn.spi`, nothing else of ours."""
