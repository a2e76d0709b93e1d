import json
from typing import Any

import pytest

from connectors.river import TARGETS, RiverSource, _bundled
from stream_rnn.spi import EndOfStream, SettingError
from stream_rnn.testing import check_source


def _first(dataset: str) -> dict[str, Any]:
    with RiverSource(dataset) as source:
        source.open(None)
        record: dict[str, Any] = json.loads(source.poll(1, 1.0).events[0].data)
        return record


def _count(source: RiverSource) -> int:
    n = 0
    try:
        while True:
            n += len(source.poll(500, 1.0).events)
    except EndOfStream:
        return n


@pytest.mark.parametrize("repeat", [1, 2])
def test_the_source_conforms(repeat: int) -> None:
    with RiverSource("AirlinePassengers", repeat=repeat) as source:
        source.open(None)
        expected = [event.data for event in source.poll(1000, 5.0).events]
    assert len(expected) == 144 * repeat
    check_source(
        lambda: RiverSource("AirlinePassengers", repeat=repeat), expected=expected, slack_s=30.0
    )


def test_water_flow_holds_an_iso_time_and_the_flow() -> None:
    assert _first("WaterFlow") == {"Time": "2022-03-20T11:00:00+01:00", "Flow": 100.59}


def test_water_flow_has_1268_rows() -> None:
    with RiverSource() as source:
        source.open(None)
        assert _count(source) == 1268


def test_the_target_has_its_own_name_beside_the_features() -> None:
    assert _first("AirlinePassengers") == {"month": "1949-01-01T00:00:00", "passengers": 112}


def test_named_targets_keep_their_names() -> None:
    assert _first("SolarFlare")["c-class-flares"] == 0


def test_a_target_without_a_name_is_called_target() -> None:
    assert _first("Bananas") == {"1": 1.617466, "2": -0.919233, "target": False}


@pytest.mark.parametrize("dataset", sorted(_bundled()))
def test_every_bundled_dataset_can_be_read(dataset: str) -> None:
    record = _first(dataset)
    assert len(record) >= 2
    assert TARGETS.get(dataset, next(iter(record))) in record


def test_resuming_in_a_late_repetition_is_quick_and_exact() -> None:
    with RiverSource("AirlinePassengers", repeat=0) as source:
        source.open({"AirlinePassengers": 144 * 10_000_000 + 3})
        event = source.poll(1, 5.0).events[0]
    assert event.position == 144 * 10_000_000 + 4
    assert json.loads(event.data) == {"month": "1949-04-01T00:00:00", "passengers": 129}


def test_an_unknown_dataset_gets_the_nearest_name() -> None:
    with pytest.raises(SettingError, match=r"^dataset: 'Waterflow' .* did you mean 'WaterFlow'\?"):
        RiverSource("Waterflow")


def test_a_dataset_that_must_be_downloaded_is_refused_with_the_bundled_names() -> None:
    with pytest.raises(SettingError, match=r"^dataset: 'Bikes' .*Bundled: .*WaterFlow"):
        RiverSource("Bikes")


def test_a_negative_number_of_repetitions_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^repeat: must be at least 0"):
        RiverSource(repeat=-1)
