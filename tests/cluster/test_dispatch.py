"""Games are given to workers in their order, and each is played to its end exactly once."""

import sys
from collections import Counter, defaultdict
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rlarcade.cluster.dispatch import MOST_DEATHS, Dispatcher
from rlarcade.errors import ResourceError
from rlarcade.playing.play import Scheduled

PLAYER, SLOW = SimpleNamespace(name="somebody"), SimpleNamespace(name="a slow one")


def games(number):
    return [Scheduled(PLAYER, seed) for seed in range(number)]


def seeds(given):
    """The seeds that each worker got."""
    return {worker: [game.seed for game in of_worker.values()] for worker, of_worker in given}


def finish(dispatcher, worker, given):
    """Lets a worker end all games that it was given."""
    for ticket, game in dict(given)[worker].items():
        dispatcher.finished(worker, ticket, f"result {game.seed}")


def played_out(dispatcher, orders, workers):
    """Plays until all orders are done; returns the results of each that were not taken before."""
    results = [[] for _ in orders]
    for _ in range(10_000):
        given = dispatcher.assign(workers)
        for worker, _ in given:
            finish(dispatcher, worker, given)
        for so_far, order in zip(results, orders, strict=True):
            so_far.extend(order.take())
        if all(order.done for order in orders):
            return results
    raise AssertionError("the games never end")


# One worker after the other


def test_games_begin_in_schedule_order_and_a_worker_gets_no_more_than_its_lanes():
    dispatcher = Dispatcher(capacity=3)
    dispatcher.workers = 4
    dispatcher.open(games(10))
    assert seeds(dispatcher.assign(["a"])) == {"a": [0, 1, 2]}
    assert dispatcher.in_play("a") == 3
    assert dispatcher.assign(["a"]) == []
    assert seeds(dispatcher.assign(["b"])) == {"b": [3, 4, 5]}


def test_results_in_any_order_reach_their_own_order_with_their_place_in_the_schedule():
    dispatcher = Dispatcher(capacity=4)
    ours, theirs = dispatcher.open(games(2)), dispatcher.open(games(2))
    ((_, given),) = dispatcher.assign(["a"])
    for ticket in sorted(given, reverse=True):
        dispatcher.finished("a", ticket, f"{ticket}: {given[ticket].seed}")
    assert not ours.done
    assert list(ours.take()) == [(1, "3: 1"), (0, "1: 0")]
    assert list(theirs.take()) == [(1, "4: 1"), (0, "2: 0")]
    assert dispatcher.assign(["a"]) == []  # finds that the schedules have no more games
    assert (ours.done, theirs.done) == (True, True)


def test_an_order_is_not_done_while_a_result_was_not_taken():
    dispatcher = Dispatcher(capacity=2)
    order = dispatcher.open(games(1))
    finish(dispatcher, "a", dispatcher.assign(["a"]))
    assert order.read
    assert not order.done
    assert list(order.take()) == [(0, "result 0")]
    assert order.done


def test_a_schedule_without_games_is_done_as_soon_as_it_was_read():
    dispatcher = Dispatcher(capacity=2)
    order = dispatcher.open([])
    assert not order.done
    assert dispatcher.wanted(5) == 0
    assert order.done


# How games are spread


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (3, [1, 1, 1, 0, 0, 0, 0, 0]),
        (9, [2, 1, 1, 1, 1, 1, 1, 1]),
        (20, [3, 3, 3, 3, 2, 2, 2, 2]),
        (63, [8, 8, 8, 8, 8, 8, 8, 7]),
        (100, [8] * 8),
    ],
)
def test_few_games_are_spread_evenly_over_workers_that_are_free(number, expected):
    dispatcher = Dispatcher(capacity=8)
    dispatcher.workers = 8
    dispatcher.open(games(number))
    dispatcher.assign(range(8))
    assert sorted(map(dispatcher.in_play, range(8)), reverse=True) == expected


def test_a_worker_that_is_ready_first_leaves_games_for_those_that_are_expected():
    dispatcher = Dispatcher(capacity=8)
    dispatcher.workers = 4
    dispatcher.open(games(8))
    for worker in range(4):
        assert len(dict(dispatcher.assign([worker]))[worker]) == 2


def test_the_worker_with_the_fewest_games_gets_the_next_one():
    dispatcher = Dispatcher(capacity=8)
    dispatcher.workers = 2
    order = dispatcher.open(iter(games(17)))
    given = dispatcher.assign(["a", "b"])
    (ticket, *_) = dict(given)["b"]
    dispatcher.finished("b", ticket, "a result")
    assert seeds(dispatcher.assign(["a", "b"])) == {"b": [16]}
    assert len(list(order.take())) == 1


def test_a_worker_with_two_games_waits_until_another_one_has_two():
    dispatcher = Dispatcher(capacity=8)
    dispatcher.workers = 2
    dispatcher.open(games(8))
    assert len(dict(dispatcher.assign(["busy"]))["busy"]) == 4
    assert len(dict(dispatcher.assign(["also busy"]))["also busy"]) == 4
    dispatcher.open(games(2))
    assert len(dict(dispatcher.assign(["a"]))["a"]) == 2
    dispatcher.open(games(2))
    assert {worker: len(given) for worker, given in dispatcher.assign(["a", "b"])} == {"b": 2}


def test_no_more_workers_are_wanted_than_there_are_games():
    dispatcher = Dispatcher(capacity=8)
    dispatcher.open(games(5))
    assert dispatcher.wanted(3) == 3
    assert dispatcher.wanted(1_000) == 5
    dispatcher.assign(["a"])
    assert dispatcher.wanted(1_000) == 5


def test_no_more_games_are_read_than_the_workers_can_play():
    dispatcher = Dispatcher(capacity=4)
    dispatcher.workers = 3
    read = []
    dispatcher.open(read.append(game.seed) or game for game in games(1_000))
    dispatcher.assign(["a"])
    assert read == list(range(12))


def test_several_orders_advance_together():
    dispatcher = Dispatcher(capacity=4)
    orders = [dispatcher.open(games(50)) for _ in range(3)]
    taken = [0, 0, 0]
    while not all(order.done for order in orders):
        given = dispatcher.assign(["a"])
        finish(dispatcher, "a", given)
        taken = [
            number + sum(1 for _ in order.take())
            for number, order in zip(taken, orders, strict=True)
        ]
        assert max(taken) - min(taken) <= 4
    assert taken == [50, 50, 50]


def test_an_order_that_comes_later_shares_the_lanes_and_does_not_take_them_all():
    dispatcher = Dispatcher(capacity=8)
    earlier = dispatcher.open(games(1_000))
    playing = dict.fromkeys(dict(dispatcher.assign(["a"]))["a"], earlier)
    later = dispatcher.open([Scheduled(SLOW, seed) for seed in range(1_000)])
    for _ in range(50):
        ticket = min(playing)
        del playing[ticket]
        dispatcher.finished("a", ticket, "a result")
        for order in (earlier, later):
            list(order.take())
        for ticket, game in dict(dispatcher.assign(["a"]))["a"].items():
            playing[ticket] = later if game.player is SLOW else earlier
        assert list(playing.values()).count(later) <= 5
    assert list(playing.values()).count(later) == 4


def test_an_order_whose_results_nobody_takes_does_not_run_ahead():
    """A suite takes one pair of each match, and a slow match holds up those with short games."""
    dispatcher = Dispatcher(capacity=4)
    quick = dispatcher.open(games(1_000))
    slow = dispatcher.open([Scheduled(SLOW, seed) for seed in range(1_000)])
    for _ in range(200):
        for ticket, game in dict(dispatcher.assign(["a"])).get("a", {}).items():
            if game.player is PLAYER:
                dispatcher.finished("a", ticket, "a result")
    assert quick.begun <= 5
    assert slow.begun == 4  # all lanes


# Lost workers


def test_games_of_lost_workers_are_played_again_in_schedule_order_before_later_ones():
    dispatcher = Dispatcher(capacity=3)
    dispatcher.workers = 4
    order = dispatcher.open(games(20))
    first = dispatcher.assign(["a"])
    dispatcher.assign(["b"])
    (ticket, *_) = dict(first)["a"]
    dispatcher.finished("a", ticket, "result 0")
    assert dispatcher.lost("b") == 3
    assert dispatcher.lost("a") == 2
    assert seeds(dispatcher.assign(["c"])) == {"c": [1, 2, 3]}
    assert seeds(dispatcher.assign(["d"])) == {"d": [4, 5, 6]}
    assert list(order.take()) == [(0, "result 0")]


def test_a_result_that_comes_after_its_worker_was_lost_changes_nothing():
    dispatcher = Dispatcher(capacity=1)
    order = dispatcher.open(games(1))
    late = dispatcher.assign(["a"])
    dispatcher.lost("a")
    finish(dispatcher, "a", late)
    assert list(order.take()) == []
    again = dispatcher.assign(["b"])
    assert seeds(again) == {"b": [0]}
    finish(dispatcher, "a", late)
    dispatcher.finished("b", 999, "of a ticket that was never given")
    assert list(order.take()) == []
    finish(dispatcher, "b", again)
    finish(dispatcher, "b", again)
    assert list(order.take()) == [(0, "result 0")]


def test_a_worker_that_plays_nothing_can_be_lost():
    dispatcher = Dispatcher(capacity=1)
    assert dispatcher.lost("nobody has heard of it") == 0


def test_a_game_that_ends_every_worker_is_told_with_its_player_and_seed():
    dispatcher = Dispatcher(capacity=1)
    dispatcher.open([Scheduled(PLAYER, 77)])
    for worker in range(MOST_DEATHS - 1):
        dispatcher.assign([worker])
        assert dispatcher.lost(worker) == 1
    dispatcher.assign(["the last"])
    with pytest.raises(
        ResourceError, match=rf"^{MOST_DEATHS} workers .* the game of somebody with seed 77\. "
    ):
        dispatcher.lost("the last")


def test_after_a_game_has_ended_too_many_workers_other_orders_go_on_to_their_end():
    dispatcher = Dispatcher(capacity=8)
    deadly = dispatcher.open(games(1))
    for worker in range(MOST_DEATHS - 1):
        dispatcher.assign([worker])
        dispatcher.lost(worker)
    other = dispatcher.open(games(5))
    dispatcher.assign(["the last"])
    assert dispatcher.in_play("the last") == 6
    with pytest.raises(ResourceError):
        dispatcher.lost("the last")
    dispatcher.close(deadly)
    (results,) = played_out(dispatcher, [other], ["a"])
    assert sorted(results) == [(seed, f"result {seed}") for seed in range(5)]


# Orders that were closed


def test_games_of_a_closed_order_are_not_begun_and_their_results_are_not_kept():
    dispatcher = Dispatcher(capacity=2)
    dispatcher.workers = 4
    closed = dispatcher.open(games(10))
    given = dispatcher.assign(["a"])
    dispatcher.wanted(5)  # ten games, eight of them wait
    dispatcher.close(closed)
    other = dispatcher.open(games(1))
    assert seeds(dispatcher.assign(["b"])) == {"b": [0]}
    finish(dispatcher, "a", given)
    assert list(closed.take()) == []
    assert dispatcher.in_play("a") == 0
    assert not other.done


def test_after_an_order_was_closed_the_games_of_others_keep_their_order():
    dispatcher = Dispatcher(capacity=8)
    dispatcher.workers = 3
    closed, other = dispatcher.open(games(12)), dispatcher.open(games(12))
    dispatcher.assign(["a"])
    dispatcher.lost("a")
    dispatcher.close(closed)
    assert seeds(dispatcher.assign(["b"])) == {"b": list(range(4))}
    assert seeds(dispatcher.assign(["c"])) == {"c": list(range(4, 8))}
    assert other.begun == 12


def test_a_schedule_is_not_read_after_its_order_was_closed():
    dispatcher = Dispatcher(capacity=2)
    read = []
    closed = dispatcher.open(read.append(game.seed) or game for game in games(100))
    dispatcher.assign(["a"])
    dispatcher.close(closed)
    assert dispatcher.wanted(10) == 2  # games that are still in play
    assert read == [0, 1]


def test_games_of_a_closed_order_are_not_played_again_when_their_worker_is_lost():
    dispatcher = Dispatcher(capacity=2)
    order = dispatcher.open(games(2))
    dispatcher.assign(["a"])
    dispatcher.close(order)
    assert dispatcher.lost("a") == 0
    assert dispatcher.wanted(5) == 0
    assert dispatcher.assign(["b"]) == []


def test_a_worker_has_lanes_for_other_games_only_when_games_of_a_closed_order_have_ended():
    dispatcher = Dispatcher(capacity=2)
    closed = dispatcher.open(games(2))
    given = dispatcher.assign(["a"])
    dispatcher.close(closed)
    dispatcher.open(games(2))
    assert dispatcher.assign(["a"]) == []
    finish(dispatcher, "a", given)
    assert seeds(dispatcher.assign(["a"])) == {"a": [0, 1]}


# Whatever happens


class Cluster(RuleBasedStateMachine):
    """A cluster whose workers join, play, and are lost, beside a list of where each game is."""

    @initialize(capacity=st.integers(1, 4))
    def begin(self, capacity):
        self.capacity = capacity
        self.dispatcher = Dispatcher(capacity)
        self.orders, self.open, self.lengths = [], [], []
        self.waiting = []  # (order, index), in the order in which they were read
        self.in_play = defaultdict(dict)  # worker: ticket: (order, index)
        self.gone = []  # (worker, ticket) that count no more
        self.got = Counter()  # (order, index): results that were taken
        self.read = {}  # (order, index): how many were read before
        self.deaths = Counter()
        self.names = count()
        self.alive = []

    # What the user does

    @precondition(lambda self: len(self.orders) < 5)
    @rule(length=st.integers(0, 12))
    def opens(self, length):
        place = len(self.orders)

        def schedule():
            for index in range(length):
                assert place in self.open
                self.read[place, index] = len(self.read)
                self.waiting.append((place, index))
                yield Scheduled(PLAYER, 100 * place + index)

        self.orders.append(self.dispatcher.open(schedule()))
        self.lengths.append(length)
        self.open.append(place)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def closes(self, data):
        place = data.draw(st.sampled_from(self.open))
        self.takes()
        self.dispatcher.close(self.orders[place])
        self.open.remove(place)
        self.waiting = [game for game in self.waiting if game[0] != place]

    @rule()
    def takes(self):
        for place in self.open:
            for index, result in self.orders[place].take():
                assert result == f"result of {place}, {index}"
                self.got[place, index] += 1

    @rule(expected=st.integers(0, 6))
    def expects(self, expected):
        self.dispatcher.workers = self.dispatcher.wanted(expected)
        assert self.dispatcher.workers == min(expected, self.in_hand)

    # What the workers do

    @property
    def in_hand(self):
        return len(self.waiting) + sum(map(len, self.in_play.values()))

    @precondition(lambda self: len(self.alive) < 6)
    @rule()
    def joins(self):
        self.alive.append(next(self.names))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def are_told(self, data):
        self.assign(data.draw(st.lists(st.sampled_from(self.alive), unique=True)))

    def assign(self, free):
        before = {worker: len(self.in_play[worker]) for worker in free}
        given = dict(self.dispatcher.assign(free))
        assert set(given) <= set(free)
        in_hand, most = self.in_hand, max(self.dispatcher.workers, len(free), 1)
        share = min(self.capacity, -(-in_hand // most))
        # Slow and obvious: one game after the other, to a worker that has the fewest.
        loads, first = sorted(before.values()), sorted(self.waiting, key=self.read.get)
        due = []
        while first and loads and loads[0] < share:
            due.append(first.pop(0))
            loads[0] += 1
            loads.sort()
        told = []
        for worker, by_ticket in given.items():
            for ticket, game in by_ticket.items():
                where = divmod(game.seed, 100)
                assert (worker, ticket) not in self.gone
                told.append(where)
                self.in_play[worker][ticket] = where
        assert sorted(told) == sorted(due)
        self.waiting = [game for game in self.waiting if game not in told]
        assert sorted(len(self.in_play[worker]) for worker in free) == loads
        for worker in free:
            assert self.dispatcher.in_play(worker) == len(self.in_play[worker])

    @precondition(lambda self: any(self.in_play.values()))
    @rule(data=st.data())
    def finishes(self, data):
        playing = [(w, ticket) for w, tickets in self.in_play.items() for ticket in tickets]
        for worker, ticket in data.draw(st.lists(st.sampled_from(playing), unique=True)):
            self.finish(worker, ticket)

    def finish(self, worker, ticket):
        place, index = self.in_play[worker].pop(ticket)
        self.gone.append((worker, ticket))
        self.dispatcher.finished(worker, ticket, f"result of {place}, {index}")

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def finishes_too_late(self, data):
        worker, ticket = data.draw(st.sampled_from(self.gone))
        self.dispatcher.finished(worker, ticket, "too late")

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def is_lost(self, data):
        worker = data.draw(st.sampled_from(self.alive))
        self.alive.remove(worker)
        playing = self.in_play.pop(worker, {})
        self.gone += [(worker, ticket) for ticket in playing]
        back = [game for game in playing.values() if game[0] in self.open]
        self.deaths.update(back)
        self.waiting += back
        if any(self.deaths[game] >= MOST_DEATHS for game in back):
            with pytest.raises(ResourceError):
                self.dispatcher.lost(worker)
        else:
            assert self.dispatcher.lost(worker) == len(back)

    def teardown(self):
        """Without further losses, every game of every open order ends."""
        if not hasattr(self, "open"):
            return
        self.dispatcher.workers = 2
        for _ in range(1_000):
            self.takes()
            if all(self.orders[place].done for place in self.open):
                break
            self.assign(["one", "two"])
            for worker, tickets in self.in_play.items():
                for ticket in list(tickets):
                    self.finish(worker, ticket)
        every = [(place, index) for place in self.open for index in range(self.lengths[place])]
        taken = Counter({game: n for game, n in self.got.items() if game[0] in self.open})
        assert taken == Counter(every)
        assert all(number == 1 for number in self.got.values())


Cluster.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestEveryGameIsPlayedExactlyOnceWhateverWorkersAreLost = Cluster.TestCase


# Speed


def work_for_a_game(workers):
    """Python instructions for each game that ends, counted, because time depends on what else runs.

    All lanes of all workers are full. A worker ends a game and gets the next one.
    """
    dispatcher = Dispatcher(capacity=8)
    dispatcher.workers = workers
    order = dispatcher.open(Scheduled(PLAYER, seed) for seed in count())
    given = dict(dispatcher.assign(range(workers)))
    assert sum(map(len, given.values())) == 8 * workers
    first = [next(iter(given[worker])) for worker in range(10)]
    instructions = 0

    def counts(frame, event, argument):
        nonlocal instructions
        frame.f_trace_opcodes = True
        instructions += event == "opcode"
        return counts

    before = sys.gettrace()
    sys.settrace(counts)
    try:
        for worker, ticket in enumerate(first):
            dispatcher.finished(worker, ticket, "a result")
            dispatcher.assign([worker])
            list(order.take())
    finally:
        sys.settrace(before)
    assert sum(dispatcher.in_play(worker) for worker in range(workers)) == 8 * workers
    return instructions / len(first)


def test_the_work_for_a_game_does_not_grow_with_the_games_in_play():
    few, many = work_for_a_game(10), work_for_a_game(1_000)
    assert 0 < few < 2_000
    assert many <= 1.1 * few
