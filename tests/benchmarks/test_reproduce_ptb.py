"""Penn Treebank characters, on a text made up here."""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.reproduce.experiment import Refused
from benchmarks.reproduce.ptb import Ptb, bits_per_character, read
from stream_rnn.frame import Frame

SMALL = replace(Ptb.sizes["small"], units=5, lanes=2)
WORDS = "the cat sat on the mat and the dog on the cat \n "


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "ptb.train.txt").write_text(WORDS * 12)
    (folder / "ptb.valid.txt").write_text(WORDS * 5)
    return folder


def test_a_folder_and_a_zip_file_are_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    packed = tmp_path / "ptb.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in corpus.iterdir():
            archive.write(path, path.name)
    one, other = read(corpus), read(packed)
    assert torch.equal(one.train, other.train)
    assert torch.equal(one.valid, other.valid)
    assert one.n_symbols == len(set(WORDS))
    letters = sorted(set(WORDS))
    assert "".join(letters[i] for i in one.valid.tolist()) == WORDS * 5


@pytest.mark.parametrize("what", ["missing", "empty folder", "no zip", "unknown characters"])
def test_a_wrong_path_is_refused_with_what_is_expected(
    what: str, corpus: Path, tmp_path: Path
) -> None:
    path = {"missing": tmp_path / "nowhere", "no zip": corpus / "ptb.train.txt"}.get(what, corpus)
    if what == "empty folder":
        path = tmp_path / "empty"
        path.mkdir()
    if what == "unknown characters":
        (corpus / "ptb.valid.txt").write_text(WORDS * 5 + "Z")
    with pytest.raises(Refused, match=r"--data .*expected"):
        read(path)


def test_without_data_it_is_refused() -> None:
    with pytest.raises(Refused, match="--data PATH is needed"):
        Ptb(None)


def test_an_untrained_network_guesses_among_all_symbols(corpus: Path) -> None:
    text = read(corpus)
    learner = Ptb(corpus).start(SMALL, "kf", 0, "cpu").learner
    for pieces in (1, 3):
        assert bits_per_character(learner, text.valid, pieces) == pytest.approx(
            math.log2(text.n_symbols), abs=0.02
        )


def test_validation_is_the_loss_the_learner_itself_would_have(corpus: Path) -> None:
    text = read(corpus)
    learner = Ptb(corpus).start(SMALL, "kf", 0, "cpu").learner
    all_B = torch.ones(2, dtype=torch.bool)
    for parameter in learner.parameters():  # outputs that depend on what was read
        parameter.mul_(100)
    learner.teaches = "nothing"
    one_hot, half = torch.eye(text.n_symbols), 110
    nats = 0.0
    for t in range(half):  # two lanes: the two halves of 220 characters
        at_B = torch.tensor([t, half + t])
        y_BQ = text.valid[at_B + 1, None].float()
        nats += float(
            learner.step(Frame(one_hot[text.valid[at_B]], y_BQ, all_B, all_B)).loss_B.sum()
        )
    bits = nats / (2 * half) / math.log(2)
    assert bits_per_character(learner, text.valid[: 2 * half + 1], 2) == pytest.approx(
        bits, rel=1e-5
    )


def test_measuring_changes_nothing(corpus: Path) -> None:
    quiet, measured = (Ptb(corpus).start(SMALL, "kf", 0, "cpu") for _ in range(2))
    for _ in range(8):
        quiet.tick()
        measured.tick()
        measured.point()
    for name, tensor in quiet.learner.state_dict().items():
        assert torch.equal(tensor, measured.learner.state_dict()[name]), name


def test_state_and_influence_start_anew_every_hundred_characters(corpus: Path) -> None:
    trial = Ptb(corpus).start(SMALL, "kf", 0, "cpu")
    for _ in range(100):
        trial.tick()
    old_BM = trial.learner.recurrence.lane_state["credit.u_BM"].clone()
    assert bool(old_BM[:, -5:-1].any())
    trial.tick()
    # after one tick u is a multiple of [x, h = 0, 1]: nothing of the old h is in it
    u_BM = trial.learner.recurrence.lane_state["credit.u_BM"]
    n_symbols = trial.learner.recurrence.n_inputs
    assert not u_BM[:, n_symbols:-1].any()
    assert u_BM[:, -1].all()


def test_lanes_begin_spread_over_the_text_and_go_round_it(corpus: Path) -> None:
    trial = Ptb(corpus).start(SMALL, "kf", 0, "cpu")
    text = read(corpus).train
    seen: list[list[int]] = []
    step = trial.learner.step

    def watching(frame):  # type: ignore[no-untyped-def]
        seen.append([*frame.x_BI.argmax(dim=1).tolist(), *frame.y_BQ[:, 0].int().tolist()])
        return step(frame)

    trial.learner.step = watching  # type: ignore[method-assign]
    for _ in range(len(text) + 3):
        trial.tick()
    half = len(text) // 2
    twice = torch.cat((text, text, text)).tolist()
    for t, (x0, x1, y0, y1) in enumerate(seen):
        assert (x0, x1) == (twice[t], twice[half + t])
        assert (y0, y1) == (twice[t + 1], twice[half + t + 1])
