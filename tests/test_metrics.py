import math
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from stream_rnn.metrics import LATENCY_S, NOTICED_LIMIT, Metrics, describe, markdown

ROOT = Path(__file__).parents[1]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry) -> Metrics:
    return Metrics(registry, sources=("main",), baselines=("persistence",), scores=("mae", "rmse"))


def test_a_counter_is_an_int_that_shows_at_the_next_scrape(metrics, registry):
    metrics.events_applied += 3
    metrics.events_rejected["decode"] += 1
    assert registry.get_sample_value("stream_rnn_events_applied_total") == 3
    assert registry.get_sample_value("stream_rnn_events_rejected_total", {"stage": "decode"}) == 1


def test_a_series_of_a_closed_set_is_there_before_its_first_event(metrics, registry):
    assert registry.get_sample_value("stream_rnn_events_in_total", {"source": "main"}) == 0
    assert registry.get_sample_value("stream_rnn_dead_letters_total", {"stage": "learn"}) == 0


def test_a_label_outside_its_closed_set_is_an_error_at_the_place_that_invents_it(metrics):
    with pytest.raises(KeyError, match="decoed"):
        metrics.events_rejected["decoed"] += 1


@pytest.mark.parametrize(
    "name",
    ["lag_events", "lag_seconds", "snapshot_age_seconds", "prequential_loss", "gradient_norm"],
)
def test_an_unknown_gauge_is_nan_and_never_zero(metrics, registry, name):
    value = registry.get_sample_value(f"stream_rnn_{name}")
    assert value is not None
    assert math.isnan(value)


def test_a_gauge_that_becomes_unknown_again_is_nan_again(metrics, registry):
    metrics.lag_events = 7
    assert registry.get_sample_value("stream_rnn_lag_events") == 7
    metrics.lag_events = None
    assert math.isnan(registry.get_sample_value("stream_rnn_lag_events"))


def test_the_age_of_the_snapshot_is_asked_at_the_scrape(metrics, registry):
    ages = iter([1.0, 2.0])
    metrics.snapshot_age_seconds = lambda: next(ages)
    assert registry.get_sample_value("stream_rnn_snapshot_age_seconds") == 1.0
    assert registry.get_sample_value("stream_rnn_snapshot_age_seconds") == 2.0


def test_a_change_of_rule_replaces_the_info_and_leaves_no_old_one(metrics, registry):
    metrics.credit_info = (("Ok",),)
    metrics.credit_info = (("Tbptt",),)
    assert registry.get_sample_value("stream_rnn_credit_info", {"rule": "Tbptt"}) == 1
    assert registry.get_sample_value("stream_rnn_credit_info", {"rule": "Ok"}) is None


def test_histogram_buckets_count_what_is_at_most_their_bound(metrics, registry):
    for value in (0.0005, 0.001, 0.0011, 5000.0):
        metrics.end_to_end_seconds.observe(value)

    def bucket(bound: str) -> float | None:
        return registry.get_sample_value("stream_rnn_end_to_end_seconds_bucket", {"le": bound})

    assert (bucket("0.001"), bucket("0.005"), bucket("3600.0"), bucket("+Inf")) == (2, 3, 3, 4)
    assert registry.get_sample_value("stream_rnn_end_to_end_seconds_count") == 4


@pytest.mark.parametrize(
    ("value", "bucket"),
    [(-5.0, "0.001"), (math.nan, "+Inf"), (math.inf, "+Inf"), (-math.inf, "0.001")],
)
def test_an_absurd_timestamp_is_counted_and_leaves_the_sum_alone(metrics, registry, value, bucket):
    metrics.end_to_end_seconds.observe(value)
    name = "stream_rnn_end_to_end_seconds"
    bounds = [str(bound) for bound in LATENCY_S] + ["+Inf"]
    counted = [registry.get_sample_value(f"{name}_bucket", {"le": bound}) for bound in bounds]
    assert bounds[counted.index(1.0)] == bucket
    assert registry.get_sample_value(f"{name}_sum") == 0.0


def test_what_a_source_noticed_carries_its_name(metrics, registry):
    metrics.notice("main", {"sequence_gaps": 3})
    metrics.notice("main", {"sequence_gaps": 5})
    labels = {"source": "main", "what": "sequence_gaps"}
    assert registry.get_sample_value("stream_rnn_source_noticed_total", labels) == 5


def test_a_source_that_invents_names_does_not_fill_the_memory(metrics, registry):
    for n in (100, 1000, 10_000):
        metrics.notice("main", {f"key-{i}": 1 for i in range(n)})
    assert len(metrics.source_noticed) == NOTICED_LIMIT + 1
    labels = {"source": "main", "what": "other"}
    rest = registry.get_sample_value("stream_rnn_source_noticed_total", labels)
    assert rest == 10_000 - NOTICED_LIMIT


def test_a_name_that_is_not_text_for_a_page_cannot_break_the_page(metrics, registry):
    metrics.notice("main", {'\ud800"\n}': 1, "x" * 10_000: 1})
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    (noticed,) = [each for each in families if each.name == "stream_rnn_source_noticed"]
    assert {sample.labels["what"] for sample in noticed.samples} == {'\\ud800"\n}', "x" * 64}


def test_scrapes_beside_a_counting_loop_see_whole_histograms(metrics, registry):
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            metrics.tick_seconds.observe(0.003)
            metrics.notice("main", {f"gap-{metrics.events_applied % 50}": 1})
            metrics.events_applied += 1

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        seen = []
        for _ in range(50):
            families = {each.name: each for each in metrics.collect()}
            samples = families["stream_rnn_tick_seconds"].samples
            counts = [each.value for each in samples if each.name.endswith("_bucket")]
            assert counts == sorted(counts)
            seen.append(counts[-1])
        assert seen == sorted(seen)
        assert seen[-1] > 0
    finally:
        stop.set()
        thread.join()


def test_two_daemons_on_one_registry_are_refused(metrics, registry):
    with pytest.raises(ValueError, match="stream_rnn_events_in"):
        Metrics(registry)


def test_the_openmetrics_page_parses(metrics, registry):
    metrics.guarantee_info = (("main", "replayable"),)
    names = {each.name for each in parse_openmetrics(generate_openmetrics(registry).decode())}
    assert {"stream_rnn_tick_seconds", "stream_rnn_guarantee_info", "python_info"} <= names


def test_the_page_shows_exactly_the_described_series(metrics, registry):
    metrics.credit_info = (("Rtrl",),)
    metrics.guarantee_info = (("main", "replayable"),)
    metrics.build_info = (("0.1.0", "2.13"),)
    metrics.notice("main", {"gaps": 1})
    shown = {
        (re.sub(r"_(bucket|sum|count)$", "", sample.name), tuple(sorted(sample.labels)))
        for family in metrics.collect()
        for sample in family.samples
    }
    shown = {(name, tuple(each for each in labels if each != "le")) for name, labels in shown}
    assert shown == {(each.name, tuple(sorted(each.labels))) for each in describe()}


def test_promtool_has_nothing_to_say_about_the_page(metrics, registry):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    metrics.credit_info = (("Rtrl",),)
    metrics.guarantee_info = (("main", "replayable"),)
    metrics.build_info = (("0.1.0", "2.13"),)
    metrics.notice("main", {"gaps": 1})
    metrics.tick_seconds.observe(0.001)
    page = generate_latest(registry)
    said = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, b"")


def test_the_documentation_lists_the_series_there_are():
    written = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert written == markdown(), "run: python -m stream_rnn.metrics > docs/metrics.md"
