"""Running scales: an outlier does not bend them, a lasting shift does."""

import pytest

from stream_rnn.features.scaler import Scaler


def test_the_scale_survives_one_outlier() -> None:
    calm, shocked = Scaler(10_000), Scaler(10_000)
    for n in range(200):
        calm.learn(n % 10)
        shocked.learn(1e8 if n == 100 else n % 10)
    assert shocked.std < 2 * calm.std
    assert abs(shocked.mean - calm.mean) < calm.std


def test_the_scale_follows_a_lasting_shift() -> None:
    scaler = Scaler(1000)
    for n in range(500):
        scaler.learn(n % 10)
    for n in range(3000):
        scaler.learn(1000 + n % 10)
    assert scaler.mean == pytest.approx(1004.5, abs=50)


def test_a_restored_scale_is_as_wide_as_the_saved_one() -> None:
    scaler, restored = Scaler(1000), Scaler(1000)
    for n in range(100):
        scaler.learn(n % 10)

    restored.load_state_dict(scaler.state_dict())

    assert scaler.std != 1.0
    assert restored.std == scaler.std
    for each in (scaler, restored):
        each.learn(1e6)  # cut at ten standard deviations: they must be the saved ones
    assert restored.state_dict() == scaler.state_dict()
