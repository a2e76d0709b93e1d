"""What is kept, what was refused, and what a crash would cost."""

from __future__ import annotations

from deploy.grafana.parts import BAD, FAIR, GOOD, Query, graph, stat

TITLE = "stream-rnn / State"
DESCRIPTION = "Snapshots, recovery, lanes, dead letters."


def _per_second(series: str, label: str) -> Query:
    return Query(f"rate({series}{{$}}[$__rate_interval])", f"{{{{{label}}}}} {{{{instance}}}}")


ROWS = (
    (
        "Snapshots",
        (
            stat(
                "Snapshot age",
                "Of the newest durable one. It grows while nothing comes: then there is nothing to "
                "save. What counts is `Unsaved for`.",
                "stream_rnn_snapshot_age_seconds{$}",
                unit="s",
                decimals=0,
            ),
            stat(
                "Size",
                "Of the newest snapshot. [state] keep of them stand side by side.",
                "stream_rnn_snapshot_bytes{$}",
                unit="bytes",
            ),
            stat(
                "Failed in the last hour",
                "Snapshots that could not be written; the log has the error. Learning goes on, and "
                "the older ones stand; see the runbook, SnapshotFailing.",
                "increase(stream_rnn_snapshot_failures_total{$}[1h])",
                steps=((0, GOOD), (0.5, BAD)),
                decimals=0,
            ),
            stat(
                "Passed over at the start",
                "Damaged snapshots that an older one had to stand in for. Above 0: look at the "
                "disk.",
                "stream_rnn_snapshot_fallbacks_total{$}",
                steps=((0, GOOD), (1, BAD)),
            ),
            stat(
                "Events lost by the restart",
                "0 where the source rewinds; a dash where it cannot be known.",
                "stream_rnn_recovery_gap_events{$}",
                steps=((0, GOOD), (1, BAD)),
            ),
            stat(
                "Starts of this state folder",
                "How often a daemon opened it. Rising by itself: it restarts in a loop; see the "
                "runbook, RestartLoop.",
                "stream_rnn_epoch{$}",
            ),
            graph(
                "Unsaved for, and age",
                "A saw tooth between 0 and [state] every_s. `unsaved` beyond it: snapshots fail or "
                "take longer than their interval.",
                Query("stream_rnn_unsaved_seconds{$}", "unsaved {{instance}}"),
                Query("stream_rnn_snapshot_age_seconds{$}", "age {{instance}}"),
                unit="s",
                steps=((0, GOOD), (300, BAD)),
                colors={"/^unsaved/": "blue", "/^age/": "#808080"},
            ),
            graph(
                "Time to write one",
                "On a thread of its own, beside the loop.",
                "stream_rnn_snapshot_seconds{$}",
                unit="s",
            ),
            graph(
                "Snapshots per minute",
                "Made durable, and failed.",
                Query(
                    "60 * rate(stream_rnn_snapshots_total{$}[$__rate_interval])",
                    "durable {{instance}}",
                ),
                Query(
                    "60 * rate(stream_rnn_snapshot_failures_total{$}[$__rate_interval])",
                    "failed {{instance}}",
                ),
                colors={"/^durable/": GOOD, "/^failed/": BAD},
            ),
            graph(
                "Room on the disk of the state folder",
                "Free, of all. Below 5 % or ten snapshots: see the runbook, StateDiskNearlyFull.",
                Query("stream_rnn_state_free_bytes{$}", "free {{instance}}"),
                Query("stream_rnn_state_size_bytes{$}", "all {{instance}}"),
                unit="bytes",
                colors={"/^free/": "blue", "/^all/": "#808080"},
            ),
            graph(
                "Ticks in the life of the model",
                "Restarts included. A fall: the model was started over, or an older snapshot was "
                "taken.",
                "stream_rnn_step{$}",
            ),
            graph(
                "Repeated and doubled events, per second",
                "`replayed`: applied again after a restart, from a state that had not seen them. "
                "`doubles`: dropped, since their position was applied before.",
                Query(
                    "rate(stream_rnn_replayed_events_total{$}[$__rate_interval])",
                    "replayed {{instance}}",
                ),
                Query(
                    "rate(stream_rnn_duplicates_dropped_total{$}[$__rate_interval])",
                    "doubles {{instance}}",
                ),
                unit="ops",
            ),
        ),
    ),
    (
        "Journal",
        (
            graph(
                "Size of the journal",
                "Nothing where there is no [journal] table. At max_bytes the source is held back "
                "until a snapshot makes room.",
                "stream_rnn_journal_bytes{$}",
                unit="bytes",
            ),
            graph(
                "Written down and not learned yet",
                "Events that wait for the model. Rising: more comes than is learned.",
                "stream_rnn_journal_lag_events{$}",
            ),
            graph(
                "Flush to disk, nine of ten below",
                "A group of events is flushed before it is acknowledged. Slow: a busy disk; larger "
                "groups ([journal] fsync_every) help.",
                "histogram_quantile(0.9, sum by (instance, le) "
                "(rate(stream_rnn_journal_fsync_seconds_bucket{$}[$__rate_interval])))",
                unit="s",
            ),
            graph(
                "Files of the journal",
                "Those that no kept snapshot needs are removed.",
                "stream_rnn_journal_segments{$}",
            ),
        ),
    ),
    (
        "Streams",
        (
            graph(
                "Lanes",
                "Lanes that hold a stream, of those there are.",
                Query("stream_rnn_lanes_used{$}", "used {{instance}}"),
                Query("stream_rnn_lanes_capacity{$}", "capacity {{instance}}"),
                colors={"/^used/": "blue", "/^capacity/": "#808080"},
            ),
            graph(
                "Lanes taken from a stream, per second",
                "The one unseen for longest loses its hidden state to a new key. Steady: raise "
                "[lanes] capacity, or the key has too many values.",
                "rate(stream_rnn_lane_evictions_total{$}[$__rate_interval])",
                unit="ops",
            ),
            graph(
                "What the source noticed, per second",
                "Its own counts, e.g. gaps in a producer's numbering: events that were lost on the "
                "way.",
                Query(
                    "rate(stream_rnn_source_noticed_total{$}[$__rate_interval])",
                    "{{what}} {{instance}}",
                ),
                unit="ops",
            ),
        ),
    ),
    (
        "Events that could not be used",
        (
            graph(
                "Refused, per second",
                "By stage: `decode` (not a record), `features` (a field), `learn` (the step came "
                "out non-finite; nothing was learned from it).",
                _per_second("stream_rnn_events_rejected_total", "stage"),
                unit="ops",
            ),
            graph(
                "Dead letters written, per second",
                "By stage. They hold the bytes and the reason: [dead_letter] path.",
                _per_second("stream_rnn_dead_letters_total", "stage"),
                unit="ops",
            ),
            graph(
                "Field values not as configured, per second",
                "By issue. `clipped` and `unknown_category` do not stop the event; they say that "
                "the stream is not what was described.",
                _per_second("stream_rnn_feature_issues_total", "issue"),
                unit="ops",
            ),
        ),
    ),
    (
        "What it is",
        (
            stat(
                "Version",
                "Of stream-rnn, and the torch it runs on.",
                Query("stream_rnn_build_info{$}", "{{version}}, torch {{torch}}"),
                names=True,
                width=8,
            ),
            stat("Parameters", "Learned numbers of the model.", "stream_rnn_parameters{$}"),
            stat(
                "Steps, all its life",
                "Ticks learned, restarts included.",
                "stream_rnn_step{$}",
            ),
            stat(
                "Nearest limit of the disk",
                "Free room over what a snapshot takes: how many would still fit.",
                "stream_rnn_state_free_bytes{$} / (stream_rnn_snapshot_bytes{$} > 0)",
                steps=((0, BAD), (10, FAIR), (100, GOOD)),
                width=8,
            ),
        ),
    ),
)
