"""Scripted doubles and conformance checks for those who write plug-ins, and for our own tests.

The checks are plain functions of assertions, for use in any test framework:

    def test_my_source_conforms(tmp_path):
        check_source(lambda: MySource(...), expected=[b"first", b"second"])
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    Record,
    Sink,
    Source,
)

if TYPE_CHECKING:  # a connector's tests need no torch
    from torch import Tensor

    from stream_rnn.cells import Cell
    from stream_rnn.credit import Credit
    from stream_rnn.linearization import Linearization

_SLACK_S = 0.5  # what a busy machine may add to a timeout before we call it overstayed
_RESUMES = 40  # from how many positions a long stream is resumed


class ScriptedSource(Source):
    """A source that does what its script says: failure is scripted in the data.

    A script's items are events (`Event`, payload bytes, or a dict that becomes JSON) and
    exceptions, each of which is raised once when it is its turn; EndOfStream is raised for as long
    as the source stands there. Behind the last item polls are empty. Events that are not ready-made
    stand in the partition "script" at their index among the events. After NotConnected, `open` must
    come first.

    `guarantee` decides what `open` does: REPLAYABLE rewinds to `resume`, ACKABLE to the last
    acknowledgement, FIRE_AND_FORGET goes on. `opened`, `acked` and `n_closed` tell what happened.
    """

    def __init__(
        self,
        script: Iterable[Event | bytes | Record | BaseException],
        guarantee: Guarantee = Guarantee.REPLAYABLE,
    ) -> None:
        # The contract has the guarantee per class; here it is the instance that plays one.
        self.guarantee = guarantee
        self.opened: list[Position | None] = []
        self.acked: list[Position] = []
        self.n_closed = 0
        self._items: list[Event | BaseException] = []
        self._raised: set[int] = set()
        self._cursor = 0
        self._resume: dict[str, int | str] = {}
        self._is_open = False
        index = 0
        for item in script:
            if isinstance(item, BaseException):
                self._items.append(item)
                continue
            self._items.append(_as_event(item, index))
            index += 1

    def open(self, resume: Position | None) -> None:
        self.opened.append(None if resume is None else dict(resume))
        self._is_open = True
        if self.guarantee is Guarantee.REPLAYABLE:
            self._seek(resume or {})
        elif self.guarantee is Guarantee.ACKABLE:
            self._seek(self.acked[-1] if self.acked else resume or {})

    def _seek(self, resume: Position) -> None:
        self._resume = dict(resume)
        applied = [
            n + 1
            for n, item in enumerate(self._items)
            if isinstance(item, Event)
            and item.partition in resume
            and not resume[item.partition] < item.position  # type: ignore[operator]
        ]
        self._cursor = max(applied, default=0)

    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if not self._is_open:
            raise NotConnected("the scripted source is not open")
        events: list[Event] = []
        while self._cursor < len(self._items) and len(events) < max_events:
            item = self._items[self._cursor]
            if isinstance(item, Event):
                events.append(item)
                self._resume[item.partition] = item.position
            elif self._cursor not in self._raised:
                if events:  # first what came before
                    break
                self._raise(item)
            self._cursor += 1
        if not events:
            time.sleep(min(timeout_s, 0.001))  # an endless script must not spin
        return Batch(events, dict(self._resume))

    def _raise(self, error: BaseException) -> NoReturn:
        if not isinstance(error, EndOfStream):
            self._raised.add(self._cursor)
            self._cursor += 1
        self._is_open = not isinstance(error, NotConnected)
        raise error

    def ack(self, resume: Position) -> None:
        self.acked.append(dict(resume))

    def lag(self) -> Lag | None:
        return Lag(events=sum(isinstance(item, Event) for item in self._items[self._cursor :]))

    def close(self) -> None:
        self.n_closed += 1
        self._is_open = False


def _as_event(item: Event | bytes | Record, index: int) -> Event:
    if isinstance(item, Event):
        return item
    data = item if isinstance(item, bytes) else json.dumps(item).encode()
    return Event("script", index, data)


class ListSink(Sink):
    """A sink into a list. `records` holds what was written, `n_flushed` how much of it is safe."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.n_flushed = 0
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def write(self, records: Sequence[Record]) -> None:
        if not self.is_open:
            raise NotConnected("the list sink is not open")
        self.records.extend(records)

    def flush(self) -> None:
        self.n_flushed = len(self.records)

    def close(self) -> None:
        self.flush()
        self.is_open = False


def check_source(
    make: Callable[[], Source],
    *,
    expected: Sequence[bytes] | None,
    n_events: int = 3,
    patience_s: float = 10.0,
) -> None:
    """Assert that what `make` builds keeps the contract of `Source`.

    Args:
        make: builds a source, not opened, in front of the whole stream, every time it is called.
        expected: the payloads the stream holds, in order, at least two; a stream may go on silently
            behind them. None = not known beforehand, e.g. measurements; `n_events` are looked at.
        n_events: see `expected`.
        patience_s: how long any event may keep us waiting.
    """
    assert expected is None or len(expected) >= 2, "check_source needs two payloads or more"
    count = n_events if expected is None else len(expected)
    source = make()
    guarantee = source.guarantee
    assert source.describe().strip(), "describe() must say in one line what is read"
    assert "\n" not in source.describe(), "describe() is one line of the banner"
    source.close()  # a source whose open() never came is closed all the same
    batches = _read(make, None, 1, count, patience_s, acks=False)
    events = [event for batch in batches for event in batch.events]
    _check_payloads(events, expected, "polled one by one")
    _check_positions(batches)
    for max_events in (2, 7, count + 10):
        batches = _read(
            make, None, max_events, count, patience_s, acks=True, is_whole=expected is not None
        )
        again = [event for batch in batches for event in batch.events]
        _check_payloads(again, expected, f"polled by {max_events}, with acks")
        _check_positions(batches)
    _check_end(make, count, patience_s)
    if guarantee is Guarantee.REPLAYABLE:
        _check_resume(make, events, patience_s)
    else:
        _check_numbering_goes_on(make, events[-1], patience_s)


def _read(
    make: Callable[[], Source],
    resume: Position | None,
    max_events: int,
    count: int,
    patience_s: float,
    acks: bool,
    is_whole: bool = False,
) -> list[Batch]:
    """The batches up to `count` events, from a source of their own."""
    with make() as source:
        source.open(resume)
        return _drain(source, max_events, count, patience_s, acks, is_whole)


def _drain(
    source: Source,
    max_events: int,
    count: int,
    patience_s: float,
    acks: bool = False,
    is_whole: bool = False,
) -> list[Batch]:
    """Poll until `count` events came; asks for more than that only for a stream known whole."""
    batches: list[Batch] = []
    n_left, deadline = count, time.monotonic() + patience_s
    while n_left > 0:
        began = time.monotonic()
        try:
            batch = source.poll(max_events if is_whole else min(max_events, n_left), 0.05)
        except EndOfStream:
            raise AssertionError(
                f"the stream ended {n_left} events early: EndOfStream means that everything was "
                "delivered"
            ) from None
        took_s = time.monotonic() - began
        assert took_s <= 0.05 + _SLACK_S, (
            f"poll(timeout_s=0.05) took {took_s:.2f} s: the loop can neither stop nor checkpoint "
            "meanwhile"
        )
        assert len(batch.events) <= max_events, (
            f"poll(max_events={max_events}) returned {len(batch.events)} events: keep the rest for "
            "the next poll"
        )
        if batch.events:
            n_left, deadline = n_left - len(batch.events), time.monotonic() + patience_s
            batches.append(batch)
            if acks:
                source.ack(batch.resume)
        assert time.monotonic() <= deadline, f"no event for {patience_s} s, {n_left} are missing"
    _check_lag(source)
    _check_counters(source)
    return batches


def _check_payloads(events: list[Event], expected: Sequence[bytes] | None, how: str) -> None:
    assert all(isinstance(event.data, bytes) for event in events), "Event.data must be bytes"
    if expected is None:
        return
    for n, (event, data) in enumerate(zip(events, expected, strict=False)):
        assert event.data == data, f"{how}: event {n} is {event.data!r}, expected {data!r}"
    assert len(events) == len(expected), (
        f"{how}: {len(events)} events came, expected {len(expected)}"
    )


def _check_positions(batches: list[Batch]) -> None:
    last: dict[str, int | str] = {}
    for batch in batches:
        for event in batch.events:
            before = last.get(event.partition)
            assert before is None or before < event.position, (  # type: ignore[operator]
                f"positions must strictly increase within a partition under Python's <: "
                f"{event.position!r} came after {before!r} in {event.partition!r}"
            )
            last[event.partition] = event.position
        event = batch.events[-1]
        assert batch.resume.get(event.partition) == event.position, (
            f"batch.resume must name the last event of the batch, inclusive: expected "
            f"{event.partition!r} at {event.position!r}, got {dict(batch.resume)}"
        )


def _check_lag(source: Source) -> None:
    lag = source.lag()
    for value in (lag.events, lag.seconds) if lag else ():
        assert value is None or value >= 0, f"lag cannot be negative, got {lag}; unknown is None"


def _check_counters(source: Source) -> None:
    for name, value in source.counters().items():
        assert name.isidentifier(), f"counter {name!r} becomes a metric label: use a plain name"
        assert isinstance(value, int), f"counter {name} must be an int, got {value!r}"
        assert value >= 0, f"counter {name} must not be negative, got {value}"


def _check_end(make: Callable[[], Source], count: int, patience_s: float) -> None:
    """Behind the last event: empty polls or EndOfStream, for good; close as often as you like."""
    source = make()
    try:
        source.open(None)
        resume = _drain(source, count, count, patience_s)[-1].resume
        began = time.monotonic()
        try:
            batch = source.poll(10, 0.1)
        except EndOfStream:
            ended_again = False
            try:
                source.poll(10, 0.0)
            except EndOfStream:
                ended_again = True
            assert ended_again, "EndOfStream must be raised again: the stream is over for good"
        else:
            if not batch.events:
                assert dict(batch.resume) == dict(resume), (
                    f"an empty batch changes no position: expected {dict(resume)}, "
                    f"got {dict(batch.resume)}"
                )
        took_s = time.monotonic() - began
        assert took_s <= 0.1 + _SLACK_S, f"poll(timeout_s=0.1) at the end took {took_s:.2f} s"
    finally:
        source.close()
        source.close()  # closing twice must not hurt


def _check_resume(make: Callable[[], Source], events: list[Event], patience_s: float) -> None:
    """Resuming anywhere delivers the very same rest: nothing lost, nothing twice."""
    step = max(1, len(events) // _RESUMES)
    for n in sorted({*range(0, len(events) - 1, step), len(events) - 2}):
        resume = _read(make, None, n + 1, n + 1, patience_s, acks=False)[-1].resume
        rest = events[n + 1 :]
        for is_same_source in (False, True):
            with make() as source:
                if is_same_source:  # as after NotConnected: read on, then go back
                    source.open(None)
                    _drain(source, n + 2, n + 2, patience_s)
                source.open(resume)
                batches = _drain(source, 7, len(rest), patience_s)
            got = [event for batch in batches for event in batch.events]
            how = "opened again" if is_same_source else "a new source"
            places = [(event.partition, event.position, event.data) for event in got]
            assert places == [(event.partition, event.position, event.data) for event in rest], (
                f"{how} with resume={dict(resume)} must deliver what came after it, at the same "
                f"positions; first expected {rest[0]}, got {got[0]}"
            )


def _check_numbering_goes_on(make: Callable[[], Source], last: Event, patience_s: float) -> None:
    """A source that cannot rewind still numbers on: a restart must not repeat positions."""
    with make() as source:
        source.open({last.partition: last.position})
        event = _drain(source, 1, 1, patience_s)[0].events[0]
    is_further = event.partition != last.partition or event.position > last.position  # type: ignore[operator]
    assert is_further, (
        f"after open({{{last.partition!r}: {last.position!r}}}) positions must go on behind it, "
        f"got {event.position!r}: the runtime would take the event for a repetition"
    )


def check_sink(
    make: Callable[[], Sink],
    read: Callable[[], list[Record]],
    *,
    patience_s: float = 5.0,
) -> None:
    """Assert that what `make` builds keeps the contract of `Sink`.

    Args:
        make: builds a sink, not opened, always for the same destination, empty at first.
        read: everything that has arrived at the destination so far, in order.
        patience_s: how long a flushed record may take to arrive.
    """
    records: list[Record] = [
        {"n": n, "value": n / 2, "text": 'a "line"\nbreak, \u00e4', "nothing": None, "flag": True}
        for n in range(60)
    ]
    sink = make()
    assert sink.describe().strip(), "describe() must say in one line where records go"
    sink.close()  # a sink whose open() never came is closed all the same
    sink = make()
    sink.open()
    sink.write([])
    sink.write(records[:1])
    sink.write(records[1:10])
    sink.flush()
    _check_arrived(read, records[:10], "after flush", patience_s)
    _write_while_flushing(sink, records[10:30])
    sink.flush()
    _check_arrived(read, records[:30], "written while another thread flushed", patience_s)
    sink.write(records[30:40])
    sink.close()
    sink.close()
    _check_arrived(read, records[:40], "after close without flush", patience_s)
    sink = make()
    sink.open()
    sink.write(records[40:50])
    sink.open()  # as after NotConnected
    sink.write(records[50:])
    sink.close()
    _check_arrived(read, records, "opened again: append, do not overwrite", patience_s)


def _write_while_flushing(sink: Sink, records: Sequence[Record]) -> None:
    """The loop thread writes while the snapshot thread flushes."""
    failures: list[BaseException] = []
    is_done = threading.Event()

    def flush_on() -> None:
        try:
            while not is_done.is_set():
                sink.flush()
        except BaseException as error:  # reported by the thread that asserts
            failures.append(error)

    thread = threading.Thread(target=flush_on)
    thread.start()
    try:
        for record in records:
            sink.write([record])
    finally:
        is_done.set()
        thread.join()
    assert not failures, f"flush() from another thread failed: {failures[0]!r}"


def _check_arrived(
    read: Callable[[], list[Record]], expected: list[Record], when: str, patience_s: float
) -> None:
    deadline = time.monotonic() + patience_s
    got = read()
    while len(got) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.01)
        got = read()
    for n, (record, wanted) in enumerate(zip(got, expected, strict=False)):
        assert record == wanted, f"{when}: record {n} is {record!r}, expected {wanted!r}"
    assert len(got) == len(expected), f"{when}: {len(got)} records arrived of {len(expected)}"


def check_cell(cell: Cell, seed: int = 0) -> None:
    """Assert that the closed form of `cell` is the derivative of its `step`, in float64.

    Args:
        cell: a few inputs and units suffice; brute force costs their square.
        seed: of the random weights, inputs and states looked at.
    """
    import torch
    from torch.autograd.functional import jacobian

    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    N, B = cell.n_units, 3
    S, (Z, M) = cell.n_state, cell.weight_shape
    assert (cell.gates * N, cell.n_inputs + N + 1) == (Z, M), f"weight_shape is {(Z, M)}"
    W_ZM = cell.initial_weight(torch.Generator().manual_seed(seed))
    again_ZM = cell.initial_weight(torch.Generator().manual_seed(seed))
    assert torch.equal(W_ZM, again_ZM), "initial_weight must depend on the generator alone"
    W_ZM = W_ZM + noise(Z, M) * 0.3
    if cell.mask_ZM is not None:
        assert bool((again_ZM[~cell.mask_ZM] == 0).all()), "initial_weight breaks mask_ZM"
        W_ZM = torch.where(cell.mask_ZM, W_ZM, 0.0)
    x_BI, s_BS = noise(B, cell.n_inputs), noise(B, S) * 0.5

    arguments = (W_ZM, x_BI, s_BS)
    copies = [argument.clone() for argument in arguments]
    s_t_BS, lin = cell.step(*arguments)
    for name, argument, copy in zip(("W", "x", "s"), arguments, copies, strict=True):
        assert torch.equal(argument, copy), f"step() changed its argument {name}"
    u_BM = torch.cat((x_BI, s_BS[:, :N], torch.ones_like(x_BI[:, :1])), dim=1)
    assert torch.equal(lin.u_BM, u_BM), "u must be [x_t, h_tm1, 1]; h is the first state block"
    W_h_ZN = W_ZM[:, cell.n_inputs : cell.n_inputs + N]
    assert torch.equal(lin.W_h_ZN, W_h_ZN), "W_h must be the columns that read h"

    def close(name: str, got: Tensor, truth: Tensor) -> None:
        error = float((got - truth).abs().max())
        assert error <= 1e-10, f"{name} of {type(cell).__name__} is off by {error:.1e}"

    X_BSR, q_BS = noise(B, S, 4), noise(B, S)
    pushed_BSR, pulled_BS, dz_BZ = lin.push(X_BSR), lin.pull(q_BS), lin.pull_drive(q_BS)
    for b in range(B):
        lane = slice(b, b + 1)

        def of_state(s: Tensor, lane: slice = lane) -> Tensor:
            return cell.step(W_ZM, x_BI[lane], s[None])[0][0]

        def of_bias(bias: Tensor, lane: slice = lane) -> Tensor:  # ds/dbias = ds/dz
            W_biased_ZM = torch.cat((W_ZM[:, :-1], bias[:, None]), dim=1)
            return cell.step(W_biased_ZM, x_BI[lane], s_BS[lane])[0][0]

        close("step in company of other lanes", s_t_BS[b], of_state(s_BS[b]))
        J_SS: Tensor = jacobian(of_state, s_BS[b])  # type: ignore[no-untyped-call]
        D_SZ: Tensor = jacobian(of_bias, W_ZM[:, -1])  # type: ignore[no-untyped-call]
        close("push (J X)", pushed_BSR[b], J_SS @ X_BSR[b])
        close("pull (J^T q)", pulled_BS[b], J_SS.T @ q_BS[b])
        close("J_h", lin.J_h_BSN()[b], J_SS[:, :N])
        close("dense_drive (ds/dz)", lin.dense_drive()[b], D_SZ)
        close("pull_drive", dz_BZ[b], D_SZ.T @ q_BS[b])


def check_credit(make: Callable[[Cell, int], Credit], cell: Cell | None = None) -> None:
    """Assert that what `make` builds keeps the contract of `Credit`, in float64.

    Whether a rule's gradient is the right one is for its own tests; here: the first tick, lanes
    that know nothing of each other, reset, bad credit, and resuming.

    Args:
        make: builds a fresh rule for a cell and a number of lanes, alike every time (a noisy rule
            seeds a generator of its own).
        cell: the cell whose steps it observes; an `Lstm` unless given.
    """
    import torch

    from stream_rnn.cells import Lstm

    the_cell: Cell = Lstm(2, 3) if cell is None else cell
    for check in (
        _check_first_tick,
        _check_idle_lanes,
        _check_lane_isolation,
        _check_reset,
        _check_bad_credit,
        _check_resumed_rule,
    ):
        with torch.no_grad():
            check(make, the_cell)


_LANES = 3
_LOCKED = "a rule that never returned None from gradient() owes nothing: flush() must return None"


def _ticks(
    cell: Cell, n_ticks: int, seed: int = 0, spoiled: int | None = None
) -> list[tuple[Linearization, Tensor]]:
    """Steps of a random net and dL/ds; `spoiled`: a lane that lives through other data."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W_ZM = cell.initial_weight(generator)
    s_BS, ticks = noise(_LANES, cell.n_state) * 0, []
    for _ in range(n_ticks):
        x_BI, q_BS = noise(_LANES, cell.n_inputs), noise(_LANES, cell.n_state)
        if spoiled is not None:
            x_BI[spoiled], q_BS[spoiled] = 3.0, -2.0
        s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
        ticks.append((lin, q_BS))
    return ticks


def _mask(*lanes: int) -> Tensor:
    import torch

    return torch.tensor([lane in lanes for lane in range(_LANES)])


def _lane(rule: Credit, lane: int) -> dict[str, Tensor]:
    return {name: state[lane].clone() for name, state in rule.lane_state.items()}


def _assert_same(before: dict[str, Tensor], after: dict[str, Tensor], claim: str) -> None:
    import torch

    assert before.keys() == after.keys(), f"{claim}: the names of the lane state changed"
    for name, state in before.items():
        assert torch.equal(state, after[name]), f"{claim}: {name} differs"


def _check_first_tick(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """From zero influence, the first gradient is the instantaneous one."""
    import torch

    rule = make(cell, _LANES)
    for name, state in rule.lane_state.items():
        assert len(state) == _LANES, f"lane_state[{name!r}] must have the lanes as leading axis"
        assert not bool(state.any()), f"lane_state[{name!r}] must be zero at the start"
    assert rule.flush() is None, "nothing is owed before the first tick"
    rule.report()  # metrics may be read before the first tick
    ((lin, q_BS),) = _ticks(cell, 1)
    before = [t.clone() for t in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM, q_BS)]
    rule.observe(lin, q_BS, _mask(0, 1, 2))
    for old, new in zip(before, (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM, q_BS), strict=True):
        assert torch.equal(old, new), "observe() changed its arguments"
    gradient_ZM = rule.gradient()
    is_locked = gradient_ZM is None
    if gradient_ZM is None:
        gradient_ZM = rule.flush()
        assert gradient_ZM is not None, "an update-locked rule must flush() what it owes"
    truth_ZM = lin.pull_drive(q_BS).T @ lin.u_BM
    torch.testing.assert_close(gradient_ZM, truth_ZM, rtol=0, atol=1e-12)
    assert is_locked or rule.flush() is None, _LOCKED
    assert bool(rule.healthy().all()), "healthy() must be true after a harmless tick"


def _check_idle_lanes(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """An idle lane keeps every tensor bitwise, whatever its rows hold."""
    import torch

    rule = make(cell, _LANES)
    for t, (lin, q_BS) in enumerate(_ticks(cell, 8)):
        idle = t % _LANES
        for rows_B in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM, q_BS):
            rows_B[idle] = torch.nan if t > 2 else 0.0
        before = _lane(rule, idle)
        rule.observe(lin, q_BS, _mask(*{0, 1, 2} - {idle}))
        gradient_ZM = rule.gradient()
        if gradient_ZM is None:
            return  # a payment marks what every lane owes as paid, idle or not
        if t:
            _assert_same(before, _lane(rule, idle), "an idle lane must not change")
        assert bool(gradient_ZM.isfinite().all()), "an idle lane's rows reached the gradient"
        assert bool(rule.healthy().all()), "an idle lane's rows are no reason to be unhealthy"


def _check_lane_isolation(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """What lane 1 lives through never shows in the others."""
    rule, other = make(cell, _LANES), make(cell, _LANES)
    for (lin, q_BS), (lin_2, q_2_BS) in zip(
        _ticks(cell, 6), _ticks(cell, 6, spoiled=1), strict=True
    ):
        rule.observe(lin, q_BS, _mask(0, 1, 2))
        other.observe(lin_2, q_2_BS, _mask(0, 1, 2))
    for lane in (0, 2):
        _assert_same(_lane(rule, lane), _lane(other, lane), "a lane depends on another one")


def _check_reset(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    rule = make(cell, _LANES)
    for lin, q_BS in _ticks(cell, 5):
        rule.observe(lin, q_BS, _mask(0, 1, 2))
    others = {lane: _lane(rule, lane) for lane in (0, 2)}
    rule.reset(_mask(1))
    for lane, before in others.items():
        _assert_same(before, _lane(rule, lane), "reset() must touch the marked lanes only")
    for name, state in _lane(rule, 1).items():
        assert not bool(state.any()), f"reset() must zero the lane's {name}"


def _check_bad_credit(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """An unsound influence: the lane restarts, the gradient is that of the others."""
    import torch

    for poison in (float("nan"), float("inf"), 1e30):
        rule, sound = make(cell, _LANES), make(cell, _LANES)
        ticks = _ticks(cell, 6)
        for lin, q_BS in ticks[:5]:
            rule.observe(lin, q_BS, _mask(0, 1, 2))
            sound.observe(lin, q_BS, _mask(0, 1, 2))
        if rule.gradient() is None:
            return  # tested where the rule pays
        for state in rule.lane_state.values():
            if state.is_floating_point() and bool(state.any()):  # a spare rung keeps its zeros
                state[0] = poison
        lin, q_BS = ticks[5]
        rule.observe(lin, q_BS, _mask(0, 1, 2))
        without_BS = q_BS.clone()
        without_BS[0] = 0.0
        sound.observe(lin, without_BS, _mask(0, 1, 2))
        gradient_ZM, truth_ZM = rule.gradient(), sound.gradient()
        assert gradient_ZM is not None
        assert truth_ZM is not None
        healthy = rule.healthy().tolist()
        assert healthy[1:] == [True, True], "a lane is unhealthy because of another one"
        if healthy[0]:  # only if nothing old was used
            kept = _lane(rule, 0).values()
            assert all(bool(t.isfinite().all()) for t in kept), f"{poison} is kept"
            assert bool(gradient_ZM.isfinite().all()), f"{poison} reached the gradient"
            continue
        torch.testing.assert_close(gradient_ZM, truth_ZM, rtol=0, atol=1e-12)
        for name, state in _lane(rule, 0).items():
            assert not bool(state.any()), f"an unsound lane must restart at zero, {name} did not"
        rule.observe(lin, q_BS, _mask(0, 1, 2))
        assert bool(rule.healthy().all()), "a restarted lane must be healthy again"


def _check_resumed_rule(make: Callable[[Cell, int], Credit], cell: Cell) -> None:
    """state_dict into a fresh rule: the same from there on, bit for bit."""
    import torch

    rule, resumed = make(cell, _LANES), make(cell, _LANES)
    ticks = _ticks(cell, 9)
    for lin, q_BS in ticks[:5]:
        rule.observe(lin, q_BS, _mask(0, 1, 2))
    resumed.load_state_dict({name: t.clone() for name, t in rule.state_dict().items()})
    for lin, q_BS in ticks[5:]:
        rule.observe(lin, q_BS, _mask(0, 1, 2))
        resumed.observe(lin, q_BS, _mask(0, 1, 2))
        ours, theirs = rule.gradient(), resumed.gradient()
        assert (ours is None) == (theirs is None), "a resumed rule pays at other ticks"
        if ours is not None and theirs is not None:
            assert torch.equal(ours, theirs), "a resumed rule learns differently"
    _assert_same(rule.state_dict(), resumed.state_dict(), "a resumed rule")
    for name in rule.lane_state:
        rest = {key: t for key, t in rule.state_dict().items() if key != name}
        try:
            make(cell, _LANES).load_state_dict(rest)
        except ValueError:
            continue
        raise AssertionError(f"load_state_dict() without {name!r} must raise ValueError")
