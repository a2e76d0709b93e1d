"""Sources and sinks, one module per protocol; of ours each imports `stream_rnn.spi` only."""
