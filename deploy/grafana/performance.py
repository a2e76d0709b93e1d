"""Where the time goes."""

from __future__ import annotations

from deploy.grafana.overview import BUSY
from deploy.grafana.parts import BAD, FAIR, GOOD, Panel, Query, graph

TITLE = "stream-rnn / Performance"
DESCRIPTION = "Time of a tick, the loop's stages, latency, CPU and memory."


def _quantiles(histogram: str) -> tuple[Query, ...]:
    buckets = f"sum by (instance, le) (rate({histogram}_bucket{{$}}[$__rate_interval]))"
    return tuple(
        Query(f"histogram_quantile({q}, {buckets})", f"{name} {{{{instance}}}}")
        for q, name in ((0.5, "half below"), (0.9, "9 of 10 below"), (0.99, "99 of 100 below"))
    )


ROWS = (
    (
        "Ticks",
        (
            Panel(
                "Time of a tick",
                "How many ticks took how long: event taken to learned. Two bands: two kinds of "
                "ticks (a fallback, a fidelity probe). A band drifting up: something else uses the "
                "CPU.",
                (
                    Query(
                        "sum by (le) "
                        "(increase(stream_rnn_tick_seconds_bucket{$}[$__rate_interval]))",
                        "{{le}}",
                    ),
                ),
                kind="heatmap",
                unit="s",
                width=12,
                height=8,
            ),
            graph(
                "Time of a tick, quantiles",
                "From the same buckets, so no finer than their bounds. A tick's budget is one over "
                "the events per second that come in.",
                *_quantiles("stream_rnn_tick_seconds"),
                unit="s",
                log=True,
                at_least=None,
                width=12,
                height=8,
            ),
        ),
    ),
    (
        "The loop",
        (
            graph(
                "Where the loop's time goes",
                "Seconds per second, by stage; the mean of the chosen instances. `wait` is spare "
                "time. No `wait` left: it runs at its limit, and lag is next.",
                Query(
                    "avg by (stage) (rate(stream_rnn_stage_seconds_total{$}[$__rate_interval]))",
                    "{{stage}}",
                ),
                unit="percentunit",
                stacked=True,
                colors={"wait": "#808080", "step": "blue", "emit": "purple", "receive": "green"},
                width=12,
                height=8,
            ),
            graph(
                "Busy",
                "Share of the time the loop does not wait for events. Above 0.9: choose a cheaper "
                "rule, fewer units, `make native`, or split the stream.",
                BUSY,
                unit="percentunit",
                steps=((0, GOOD), (0.7, FAIR), (0.9, BAD)),
                width=6,
                height=8,
            ),
            graph(
                "Polls by what they brought",
                "`full`: as much as was asked for, so more waits at the source: the queue in front "
                "is filling. `part`: it was drained. `empty`: nothing came within 0.2 s.",
                Query(
                    "sum by (instance, fill) (rate(stream_rnn_polls_total{$}[$__rate_interval]))",
                    "{{fill}} {{instance}}",
                ),
                unit="ops",
                colors={"/^full/": BAD, "/^part/": GOOD, "/^empty/": "#808080"},
                width=6,
                height=8,
            ),
            graph(
                "End to end",
                "From an event's own timestamp to its being applied, where events carry one. With "
                "wrong clocks it is the difference of the clocks.",
                *_quantiles("stream_rnn_end_to_end_seconds"),
                unit="s",
                log=True,
                at_least=None,
                width=12,
            ),
            graph(
                "Lag in seconds",
                "Time the source is behind its producer, where it can know.",
                "stream_rnn_lag_seconds{$}",
                unit="s",
                width=4,
            ),
            graph(
                "Since the loop last turned",
                "Normally below 0.5 s. Growing while the process is up: one call hangs (a sink, a "
                "source, a device); see the runbook, Frozen.",
                "stream_rnn_loop_age_seconds{$}",
                unit="s",
                steps=((0, GOOD), (5, FAIR), (30, BAD)),
                width=4,
            ),
            graph(
                "Reconnects per hour",
                "Connections to the source made anew.",
                "increase(stream_rnn_reconnects_total{$}[1h])",
                width=4,
            ),
        ),
    ),
    (
        "The process",
        (
            graph(
                "CPU",
                "Cores in use, all threads.",
                "rate(process_cpu_seconds_total{$}[$__rate_interval])",
                width=5,
            ),
            graph(
                "Memory",
                "Resident. Flat after the first minutes, whatever the stream; a steady slope is a "
                "bug worth reporting.",
                "process_resident_memory_bytes{$}",
                unit="bytes",
                width=5,
            ),
            graph(
                "GPU memory",
                "What tensors of the process take on the device, weights, states and influence. No "
                "data: the model is on a CPU.",
                "stream_rnn_device_memory_bytes{$}",
                unit="bytes",
                width=5,
            ),
            graph(
                "Open files",
                "Over what the process may have open.",
                "process_open_fds{$} / process_max_fds{$}",
                unit="percentunit",
                steps=((0, GOOD), (0.5, FAIR), (0.8, BAD)),
                width=5,
            ),
            graph(
                "Time of a scrape",
                "How long the metrics page took. It never waits for the loop, but shares the "
                "interpreter with it.",
                "scrape_duration_seconds{$}",
                unit="s",
                width=4,
            ),
        ),
    ),
)
