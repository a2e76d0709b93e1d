"""The first page: is it alive, does it keep up, does it learn?"""

from __future__ import annotations

from deploy.grafana.parts import BAD, BASELINE, FAIR, GOOD, MODEL, YES_NO, Panel, Query, graph, stat

TITLE = "stream-rnn / Overview"
DESCRIPTION = "Is the daemon alive, does it keep up, is it better than doing nothing?"

BEST = "min without (baseline) (stream_rnn_baseline_loss{$} > 0)"
RATIO = f"stream_rnn_prequential_loss{{$}} / {BEST}"
BUSY = '1 - clamp_max(rate(stream_rnn_stage_seconds_total{$, stage="wait"}[$__rate_interval]), 1)'
LOSS_STEPS = ((0, GOOD), (0.95, FAIR), (1, BAD))

ROWS = (
    (
        "Now",
        (
            stat(
                "Alive",
                "Prometheus reaches the status page. Down: the process is gone, stopped or hangs. "
                "Look at its log and at `systemctl status`.",
                "up{$}",
                steps=((0, BAD), (1, GOOD)),
                texts={"0": ("down", BAD), "1": ("up", GOOD)},
                width=3,
            ),
            stat(
                "Ready",
                "What /readyz says: connected, saved, the loss finite. No: `curl "
                "http://127.0.0.1:9464/readyz` gives the reasons.",
                "stream_rnn_ready{$}",
                steps=((0, BAD), (1, GOOD)),
                texts=YES_NO,
                width=3,
            ),
            stat(
                "Connected",
                "Whether the source is there. No: it is tried again, with ever longer pauses, "
                "until [limits] gone_s ends the daemon with exit code 75.",
                "stream_rnn_connected{$}",
                steps=((0, BAD), (1, GOOD)),
                texts=YES_NO,
                width=3,
            ),
            stat(
                "Loss / best baseline",
                "Loss on predictions made before their target was seen, over that of the best "
                "baseline. Below 1 the model earns its keep. Needs positive losses; the graph "
                "below shows any.",
                RATIO,
                unit="percentunit",
                steps=LOSS_STEPS,
                width=4,
                decimals=1,
            ),
            stat(
                "Events per second",
                "Events that advanced the model.",
                "rate(stream_rnn_events_applied_total{$}[$__rate_interval])",
                width=4,
                decimals=1,
            ),
            stat(
                "Lag",
                "Events the source holds that are not applied. A dash: the source cannot know.",
                "stream_rnn_lag_events{$}",
                steps=((0, GOOD), (1000, FAIR), (100000, BAD)),
                width=4,
            ),
            stat(
                "Last event",
                "Time since the newest event was applied. Long while there is lag: it is frozen. "
                "Long without lag: nothing comes.",
                "time() - stream_rnn_last_event_timestamp_seconds{$}",
                unit="s",
                steps=((0, GOOD), (60, FAIR), (600, BAD)),
                width=3,
                decimals=0,
            ),
            stat(
                "Rule in use",
                "The credit rule that teaches the network now. `readout` and `frozen` are the "
                "rungs below the rules: the network itself stands still.",
                Query("stream_rnn_credit_info{$}", "{{rule}}"),
                names=True,
            ),
            stat(
                "Fallback level",
                "Rung of the ladder: 0 is the configured rule. Above 0 for long: see the runbook, "
                "FallbackActive.",
                "stream_rnn_fallback_level{$}",
                steps=((0, GOOD), (1, FAIR), (2, BAD)),
            ),
            stat(
                "Guarantee",
                "What the source promises when the daemon is killed. It is a property of the "
                "protocol; no setting raises it.",
                Query("stream_rnn_guarantee_info{$}", "{{level}}"),
                names=True,
            ),
            stat(
                "Unsaved for",
                "For how long there has been something to save and nothing durable since: what a "
                "crash would repeat (or lose, where the source cannot rewind).",
                "stream_rnn_unsaved_seconds{$}",
                unit="s",
                steps=((0, GOOD), (60, FAIR), (300, BAD)),
                decimals=0,
            ),
            stat(
                "Firing alerts",
                "From deploy/prometheus/rules.yml. Each has its section in docs/runbook.md.",
                Query('count(ALERTS{$, alertstate="firing"}) or vector(0)', "alerts"),
                steps=((0, GOOD), (1, FAIR), (3, BAD)),
            ),
            stat(
                "Running since",
                "Start of the process. The red marks on the graphs are restarts.",
                "process_start_time_seconds{$} * 1000",
                unit="dateTimeFromNow",
            ),
        ),
    ),
    (
        "Over time",
        (
            graph(
                "Loss",
                "Exponentially weighted means, predicted before learned: model and baselines on "
                "the same events. Worse than a baseline for long: see the runbook, NotLearning.",
                Query("stream_rnn_prequential_loss{$}", "model {{instance}}"),
                Query("stream_rnn_baseline_loss{$}", "{{baseline}} {{instance}}"),
                colors={"/^model/": MODEL, "/^persistence/": BASELINE},
                width=12,
                height=8,
                at_least=None,
            ),
            graph(
                "Loss / best baseline",
                "Below the line at 1 the model is better than the best baseline.",
                Query(RATIO, "{{instance}}"),
                steps=LOSS_STEPS,
                unit="percentunit",
                width=12,
                height=8,
            ),
            graph(
                "Events per second",
                "What came in, advanced the model, and was refused.",
                Query(
                    "sum without (source) (rate(stream_rnn_events_in_total{$}[$__rate_interval]))",
                    "in {{instance}}",
                ),
                Query(
                    "rate(stream_rnn_events_applied_total{$}[$__rate_interval])",
                    "applied {{instance}}",
                ),
                Query(
                    "sum without (stage) "
                    "(rate(stream_rnn_events_rejected_total{$}[$__rate_interval]))",
                    "refused {{instance}}",
                ),
                colors={"/^applied/": GOOD, "/^refused/": BAD, "/^in/": "blue"},
                unit="ops",
                width=12,
            ),
            graph(
                "Lag",
                "Events waiting at the source. Rising steadily: it cannot keep up; see the "
                "runbook, LagGrowing.",
                "stream_rnn_lag_events{$}",
                width=6,
            ),
            graph(
                "Busy",
                "Share of the time the loop does not wait for events: known for every source, and "
                "near 1 before lag begins.",
                BUSY,
                unit="percentunit",
                steps=((0, GOOD), (0.7, FAIR), (0.9, BAD)),
                width=6,
            ),
            Panel(
                "Alerts",
                "Pending and firing now; severity, and for which instance. What to do stands in "
                "docs/runbook.md.",
                (Query("ALERTS{$}", ""),),
                kind="table",
                width=24,
                height=6,
            ),
        ),
    ),
)
