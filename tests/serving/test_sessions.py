"""The open sessions: who reaches them, when they are idle, and how many there can be."""

import numpy as np
import pytest
from serving_helpers import V5

from rlarcade.serving import sessions as module
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.sessions import Session, Sessions, new_token


def session(name, kind="act"):
    return Session(
        id=name,
        token=f"token of {name}",
        kind=kind,
        game="pong",
        protocol=V5,
        version=1,
        role="champion",
        key=name,
        seed=1,
        dice=None,
    )


@pytest.fixture
def now():
    """What the sessions' clock shows."""
    return [100.0]


@pytest.fixture
def opened(now):
    return Sessions(lambda: now[0])


def test_a_session_is_reached_by_its_token_and_a_sequence_by_its_id_alone(opened):
    act, sequence = session("a"), session("b", "sequence")
    opened.add(act)
    opened.add(sequence)
    assert opened.get("a", "token of a") is act
    assert opened.get("b") is sequence
    for name, token, status in (
        ("a", None, 409),
        ("a", "token of b", 403),
        ("a", "token of ", 403),
        ("b", "token of b", 404),
        ("c", "token of c", 404),
        ("c", None, 409),
    ):
        with pytest.raises(Refusal) as refused:
            opened.get(name, token)
        assert refused.value.status == status


def test_a_session_is_idle_when_its_client_was_not_seen_for_longer(opened, now):
    for name in "abc":
        opened.add(session(name))
    now[0] += 60
    assert opened.idle(60) == []
    opened.get("a", "token of a")
    busy = opened.get("b", "token of b")
    now[0] += 1
    assert [one.id for one in opened.idle(60)] == ["c"]
    now[0] += 60
    busy.busy = True  # its answer may take long, and it is not its client's fault
    assert [one.id for one in opened.idle(60)] == ["a", "c"]


def test_a_wrong_token_keeps_no_session_alive(opened, now):
    opened.add(session("a"))
    now[0] += 61
    with pytest.raises(Refusal):
        opened.get("a", "guess")
    assert [one.id for one in opened.idle(60)] == ["a"]


def test_there_are_only_so_many_sessions(opened, monkeypatch):
    monkeypatch.setattr(module, "_MOST_SESSIONS", 2)
    for name in "ab":
        opened.add(session(name))
    with pytest.raises(Refusal, match="2 sessions are open") as refused:
        opened.add(session("c"))
    assert (refused.value.status, refused.value.retry_after) == (503, 10)
    opened.remove(opened.get("a", "token of a"))
    opened.add(session("c"))
    with pytest.raises(Refusal):
        opened.add(session("d"))
    assert len(opened) == 2


def test_an_id_that_is_in_use_is_refused_and_its_session_stays(opened):
    first = session("a")
    opened.add(first)
    with pytest.raises(Refusal, match="session a is open already"):
        opened.add(session("a"))
    assert opened.get("a", "token of a") is first


def test_an_id_can_be_given_to_a_command_as_it_is():
    made = {new_token() for _ in range(500)}
    assert len(made) == 500
    assert all(token.isalnum() and token.isascii() for token in made)  # no dash at the beginning


def test_a_game_has_only_so_many_steps(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_GAME", 2)
    played = session("a")
    for action in (1, 2):
        played.observed(np.zeros((84, 84), dtype=np.uint8))
        played.gave(action)
    with pytest.raises(Refusal, match="a game has at most 2 steps"):
        played.observed(np.zeros((84, 84), dtype=np.uint8))
    assert played.steps == 2


def test_sessions_are_counted_by_the_version_that_plays_them(opened):
    for name in "abc":
        opened.add(session(name))
    opened.get("b", "token of b").version = 2
    assert [opened.of_version(number) for number in (1, 2, 3)] == [2, 1, 0]
