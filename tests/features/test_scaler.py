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
