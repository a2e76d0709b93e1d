"""How well it learns, and in what state the credit is."""

from __future__ import annotations

from deploy.grafana.parts import BAD, FAIR, GOOD, Query, graph

TITLE = "stream-rnn / Learning"
DESCRIPTION = "Scores, gradient and credit, the fallback ladder, drift."

ROWS = (
    (
        "Scores",
        (
            graph(
                "Prequential metrics",
                "Cumulative scores over the life of the model, each prediction made before its "
                "target was seen. They move slowly; the loss on the overview shows the present.",
                Query("stream_rnn_prequential_metric{$}", "{{name}} {{instance}}"),
                at_least=None,
                width=12,
            ),
            graph(
                "Predictions scored per second",
                "Predictions compared with their target. 0 while events are applied: targets are "
                "missing, or the horizon is longer than the streams.",
                Query("rate(stream_rnn_scored_total{$}[$__rate_interval])", "scored {{instance}}"),
                Query(
                    "rate(stream_rnn_predictions_total{$}[$__rate_interval])", "made {{instance}}"
                ),
                unit="ops",
                width=6,
            ),
            graph(
                "Drift alarms per hour",
                "The detector on the loss. Now and then is normal; a cluster says that the stream "
                "changed. Nothing is reset by it.",
                "increase(stream_rnn_drift_alarms_total{$}[1h])",
                width=6,
            ),
        ),
    ),
    (
        "Gradient and update",
        (
            graph(
                "Gradient norm",
                "Of the newest gradient, before clipping. Growing over orders of magnitude: the "
                "credit explodes; the ladder should move.",
                "stream_rnn_gradient_norm{$}",
                log=True,
                at_least=None,
            ),
            graph(
                "Update ratio",
                "Norm of an update over the norm of the parameters. Around 0.001 is healthy; above "
                "0.01 the rate is too high, below 0.000001 nothing is learned any more.",
                "stream_rnn_update_ratio{$}",
                log=True,
                at_least=None,
                steps=((0, GOOD), (0.01, FAIR), (0.1, BAD)),
            ),
            graph(
                "Ticks without an update, per second",
                "By reason. `bad_event`: the input; `bad_credit` and `refused`: the credit; "
                "`fallback`: a rung that teaches the read-out or nothing; `locked`: by the rule.",
                Query(
                    "rate(stream_rnn_update_skips_total{$}[$__rate_interval])",
                    "{{reason}} {{instance}}",
                ),
                unit="ops",
            ),
        ),
    ),
    (
        "Credit",
        (
            graph(
                "Fidelity",
                "Cosine of the gradient with that of a long window, sampled. 1: the same; "
                "near 0: what the rule says is noise. Give it more rank, or a longer window.",
                "stream_rnn_fidelity{$}",
                steps=((-1, BAD), (0.1, FAIR), (0.5, GOOD)),
                at_least=-1,
                width=6,
            ),
            graph(
                "Influence norm",
                "What the rule carries along. Growing without end: the dynamics are chaotic; a "
                "restart of the influence shows as a fall.",
                "stream_rnn_influence_norm{$}",
                log=True,
                at_least=None,
                width=6,
            ),
            graph(
                "Noise of the estimate",
                "Variance of the newest reduction over the squared influence; only estimators "
                "(`ok`, `kf`, `uoro`) have one. High: more rank or finer chunks.",
                "stream_rnn_credit_noise{$}",
                log=True,
                at_least=None,
                width=6,
            ),
            graph(
                "Credit restarts per minute",
                "Lanes whose influence was zeroed because it was not sound. Three within 1,000 "
                "ticks move the ladder, unless the governor says otherwise.",
                "60 * rate(stream_rnn_credit_resets_total{$}[$__rate_interval])",
                width=6,
            ),
        ),
    ),
    (
        "Adaptive truncation (`adaptive_tbptt` only)",
        (
            graph(
                "Window",
                "Steps a loss is carried back through. At its upper limit for long: the memory is "
                "longer than allowed for.",
                "stream_rnn_truncation_window{$}",
            ),
            graph(
                "Decay per step",
                "Factor by which dL/ds decays per step back, as measured. At 1 or above there is "
                "no bound on the bias.",
                "stream_rnn_truncation_beta{$}",
                steps=((0, GOOD), (1, BAD)),
            ),
            graph(
                "Bound on the bias",
                "Relative bias of the gradient at that window, at most.",
                "stream_rnn_truncation_bias{$}",
            ),
        ),
    ),
    (
        "Fallback ladder",
        (
            graph(
                "Level",
                "0 is the configured rule; each level down gives up some credit. It tries to come "
                "back by itself, after longer and longer waits.",
                "stream_rnn_fallback_level{$}",
                steps=((0, GOOD), (1, FAIR)),
            ),
            graph(
                "Moves per hour",
                "By direction and reason. Many: it swings; look at the reason, and raise the "
                "governor's `cooldown` or remove the cause.",
                Query(
                    "increase(stream_rnn_fallback_moves_total{$}[1h])",
                    "{{direction}}: {{reason}} {{instance}}",
                ),
            ),
            graph(
                "Nowhere to go, per hour",
                "Triggers that found no rung left. Above 0: the trouble goes on; see the runbook, "
                "FallbackExhausted.",
                Query(
                    "increase(stream_rnn_fallback_exhausted_total{$}[1h])",
                    "{{reason}} {{instance}}",
                ),
                steps=((0, GOOD), (1, BAD)),
            ),
        ),
    ),
)
