"""The pages for machines: /metrics, /livez, /readyz, /status; and POST /predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from stream_rnn.http.routes import JSON, Answer, Request, Route, Routes, json, text

MAX_PREDICT_BYTES = 1 << 20
RETRY_S = 1

Reasons = Callable[[], list[str]]
Predict = Callable[[bytes], tuple[int, bytes]]
"""Body of a request -> status code and JSON of the answer; called by several threads at once."""


def pages(
    registry: CollectorRegistry,
    status: Callable[[], Mapping[str, object]],
    live: Reasons,
    ready: Reasons,
) -> Routes:
    """What monitoring asks for; every function is called at every request.

    Args:
        registry: what /metrics shows.
        status: what /status shows; plain values.
        live: reasons why the process should be restarted; none means alive.
        ready: reasons why the daemon does not do its job right now; none means ready.
    """
    return {
        "/metrics": Route(lambda request: _metrics(registry, request)),
        **probes(live, ready),
        "/status": Route(lambda request: json(status())),
    }


def probes(live: Reasons, ready: Reasons) -> Routes:
    """/livez and /readyz, which tell nothing of the stream."""
    return {
        "/livez": Route(lambda request: _verdict(live()), public=True),
        "/readyz": Route(lambda request: _verdict(ready()), public=True),
    }


def predicting(predict: Predict) -> Routes:
    """POST /predict; at 1,000 requests a second a connection for each is too many: it is kept."""

    def handle(request: Request) -> Answer:
        code, body = predict(request.body)
        busy = code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
        return Answer(code, JSON, body, (("Retry-After", str(RETRY_S)),) if busy else ())

    return {"/predict": Route(handle, "POST", max_body_bytes=MAX_PREDICT_BYTES, kept=True)}


def moved(where: str) -> Routes:
    """POST /predict where another address answers it."""
    words = f"POST /predict is answered at {where}\n"
    return {
        "/predict": Route(
            lambda request: text(HTTPStatus.MISDIRECTED_REQUEST, words),
            "POST",
            max_body_bytes=MAX_PREDICT_BYTES,
        )
    }


def _metrics(registry: CollectorRegistry, request: Request) -> Answer:
    # only our own words go on: the library echoes what it is sent into a header
    wanted = "application/openmetrics-text"
    encode, kind = choose_encoder(f"{wanted}; version=1.0.0" if wanted in request.accept else "")
    return Answer(HTTPStatus.OK, kind, encode(registry))


def _verdict(reasons: list[str]) -> Answer:
    if not reasons:
        return text(HTTPStatus.OK, "ok\n")
    return json({"failing": reasons}, HTTPStatus.SERVICE_UNAVAILABLE)
