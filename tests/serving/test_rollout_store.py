"""Rollouts in the registry: every transition with its audit entry, and nothing altered by hand."""

import pytest
from registry_helpers import sql, whole

from rlarcade.errors import RegistryError, StaleError, UnusableRegistryError
from rlarcade.games import get_protocol
from rlarcade.registry.rollouts import OPEN_STATES, TRANSITIONS, ServedGame
from rlarcade.serving import rollout_store as store
from rlarcade.serving.settings import RolloutSpec

CANARY = RolloutSpec(strategy="canary", steps=(10, 50, 100))


@pytest.fixture
def opened(registry, add):
    """A rollout of version 2 against champion 1."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    return store.open_rollout(registry, add(2), CANARY, actor="anna")


def game(number, rollout=1, **more):
    settings = {"role": "candidate", "step": 0, "key": f"user {number}", "seed": 7, "version": 2}
    return ServedGame(rollout=rollout, number=number, **(settings | more))


def test_a_rollout_is_opened_with_its_champion_its_settings_and_who_did_it(registry, opened):
    assert (opened.id, opened.state, opened.step) == (1, "preparing", 0)
    assert (opened.version, opened.champion, opened.champion_generation) == (2, 1, 1)
    assert opened.opened_by == "anna"
    assert store.rollout(registry, 1) == opened
    assert store.rollouts_of(registry) == store.rollouts_of(registry, "pong") == [opened]
    assert store.rollouts_of(registry, "breakout") == []
    assert store.spec_of(registry, opened) == CANARY
    event = list(registry.events())[-1]
    assert (event.kind, event.actor) == ("rollout.opened", "anna")
    assert whole(registry)


def test_two_rollouts_of_a_game_have_different_salts(registry, opened, add):
    store.move(registry, opened, "aborted", "anna")
    second = store.open_rollout(registry, registry.version(2), CANARY, actor="anna")
    assert second.id == 2
    assert second.salt != opened.salt


def test_only_one_rollout_of_a_game_is_open(registry, opened, add):
    with pytest.raises(RegistryError, match="rollout 1 of Pong is preparing. Only one can be open"):
        store.open_rollout(registry, add(3), CANARY, actor="anna")
    assert whole(registry)


def test_what_cannot_be_rolled_out_is_refused(registry, add):
    first = add(1)
    with pytest.raises(RegistryError, match="Pong has no champion, so there is nothing"):
        store.open_rollout(registry, first, CANARY, actor="anna")
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    with pytest.raises(RegistryError, match="version 1 is the champion of Pong already"):
        store.open_rollout(registry, registry.version(1), CANARY, actor="anna")
    add(2)
    registry.archive(2)
    with pytest.raises(RegistryError, match="version 2 is archived and cannot be rolled out"):
        store.open_rollout(registry, registry.version(2), CANARY, actor="anna")
    with pytest.raises(RegistryError, match="there is no rollout 7"):
        store.rollout(registry, 7)


def test_versions_that_play_by_different_protocols_are_not_compared(registry, add):
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    other = add(2, protocol=get_protocol("machado"), num_actions=18)
    for spec in (
        CANARY,
        RolloutSpec(strategy="ab"),
        RolloutSpec(strategy="parallel", mode="twin"),
        RolloutSpec(strategy="parallel", mode="shadow"),
    ):
        with pytest.raises(RegistryError, match="v5 with 6 actions, and machado with 18"):
            store.open_rollout(registry, other, spec, actor="anna")
    opened = store.open_rollout(registry, other, RolloutSpec(strategy="phased"), actor="anna")
    assert opened.version == 2


def test_a_version_in_an_open_rollout_cannot_be_archived(registry, opened):
    with pytest.raises(RegistryError, match="rollout 1"):
        registry.archive(2)
    store.move(registry, opened, "aborted", "anna")
    registry.archive(2)


def test_every_transition_that_the_table_allows_is_recorded_and_no_other_is_made(registry, opened):
    """Walks from each state to each, by setting the state as the log would have it."""
    current = opened
    for state in ("progressing", "progressing", "paused", "progressing", "rolling_back"):
        current = store.move(registry, current, state, "anna", step=current.step + 1, note=state)
        assert (current.state, current.note) == (state, state)
        assert list(registry.events())[-1].kind == f"rollout.{state}"
    assert whole(registry)
    for state in TRANSITIONS:
        if state not in TRANSITIONS["rolling_back"]:
            with pytest.raises(ValueError, match=f"is rolling_back cannot become {state}"):
                store.move(registry, current, state, "anna")
    current = store.move(registry, current, "rolled_back", "anna")
    for state in TRANSITIONS:
        with pytest.raises(ValueError, match="cannot become"):
            store.move(registry, current, state, "anna")


def test_every_open_state_has_a_way_out_and_no_closed_one_except_undo():
    for state, following in TRANSITIONS.items():
        assert bool(following) == (state in OPEN_STATES or state == "succeeded")


def test_of_two_who_move_a_rollout_one_is_told_that_it_was_moved(registry, opened):
    store.move(registry, opened, "progressing", "anna")
    with pytest.raises(StaleError, match="rollout 1 is no longer preparing at step 0"):
        store.move(registry, opened, "aborted", "bob")
    now = store.rollout(registry, 1)
    store.move(registry, now, "progressing", "anna", step=1)
    with pytest.raises(StaleError, match="no longer progressing at step 0"):
        store.move(registry, now, "progressing", "bob", step=1)
    assert store.rollout(registry, 1).step == 1


def test_where_a_rollout_was_resumed_is_kept_by_its_later_transitions(registry, opened):
    current = store.move(registry, opened, "progressing", "anna")
    current = store.move(registry, current, "paused", "anna")
    current = store.move(registry, current, "progressing", "anna", resumed_after=30)
    assert current.resumed_after == 30
    assert store.move(registry, current, "paused", "anna").resumed_after == 30
    assert whole(registry)


def test_a_rollout_that_succeeds_moves_the_champion_in_the_same_transaction(registry, opened):
    current = store.move(registry, opened, "progressing", "anna")
    done = store.succeed(registry, current, "anna", "because")
    assert (done.state, done.note) == ("succeeded", "because")
    assert registry.alias("pong").version == 2
    kinds = [event.kind for event in registry.events()][-2:]
    assert kinds == ["rollout.succeeded", "promote"]
    assert registry.history("pong")[-1].reason == "rollout 1 (canary)"
    assert whole(registry)


def test_a_rollout_whose_champion_was_replaced_does_not_succeed(registry, opened, add):
    current = store.move(registry, opened, "progressing", "anna")
    add(3)
    registry.move_alias("pong", "champion", 3, expected_generation=1, kind="force", reason="x")
    with pytest.raises(StaleError, match="generation 2, not 1"):
        store.succeed(registry, current, "anna")
    assert store.rollout(registry, 1).state == "progressing"
    assert registry.alias("pong").version == 3


def test_undo_brings_the_earlier_champion_back(registry, opened):
    with pytest.raises(RegistryError, match="rollout 1 is preparing; only one that has succeeded"):
        store.undo(registry, opened, "bob")
    done = store.succeed(registry, store.move(registry, opened, "progressing", "anna"), "anna")
    undone = store.undo(registry, done, "bob")
    assert (undone.state, undone.note) == ("rolled_back", "undone by bob")
    assert registry.alias("pong").version == 1
    assert registry.history("pong")[-1].kind == "rollback"
    assert whole(registry)
    with pytest.raises(RegistryError, match="rollout 1 is rolled_back"):
        store.undo(registry, undone, "bob")


def test_there_is_nothing_to_undo_when_another_version_is_the_champion(registry, opened, add):
    done = store.succeed(registry, store.move(registry, opened, "progressing", "anna"), "anna")
    add(3)
    registry.move_alias("pong", "champion", 3, expected_generation=2, kind="force", reason="x")
    with pytest.raises(RegistryError, match="version 2 is not the champion of Pong any more"):
        store.undo(registry, done, "bob")


def test_games_are_written_when_they_are_assigned_and_when_they_have_ended(registry, opened):
    assigned = [game(0), game(1, role="control", version=1), game(2, group="beta", pair=4)]
    store.record_games(registry, 1, "server", assigned=assigned)
    assert store.games_of(registry, 1) == assigned
    ended = game(1, role="control", version=1, ended="terminated", score=12.5, steps=30, slow=True)
    more = game(3)
    store.record_games(registry, 1, "server", assigned=[more], ended=[ended])
    assert store.games_of(registry, 1) == [assigned[0], ended, assigned[2], more]
    assert whole(registry)


def test_two_servers_cannot_assign_games_of_one_rollout(registry, opened):
    store.record_games(registry, 1, "one", assigned=[game(0), game(1)])
    with pytest.raises(StaleError, match="game 1 of rollout 1 was assigned by another server"):
        store.record_games(registry, 1, "two", assigned=[game(1), game(2)])
    assert len(store.games_of(registry, 1)) == 2


def test_a_result_of_a_game_that_was_never_assigned_is_refused(registry, opened):
    with pytest.raises(UnusableRegistryError, match="game 5 of rollout 1 is missing"):
        store.record_games(registry, 1, "server", ended=[game(5, ended="failed")])
    assert whole(registry)


@pytest.mark.parametrize(
    ("statement", "where", "what"),
    [
        ("UPDATE rollouts SET state = 'succeeded'", "rollout 1", "state is 'succeeded'"),
        ("UPDATE rollouts SET champion = 2", "rollout 1", "champion is 2"),
        ("DELETE FROM served_games WHERE number = 1", "rollout 1", "game 1: is missing"),
        ("UPDATE served_games SET score = 900", "rollout 1", "game 0: its row was altered"),
        ("UPDATE served_games SET role = 'control'", "rollout 1", "role is 'control'"),
        (
            'INSERT INTO served_games SELECT rollout, 9, role, step, key, "group", session, '
            "begun, pair, seed, version, ended, score, steps, errors, slow, abandoned, mixed, "
            "claimed, record "
            "FROM served_games WHERE number = 0",
            "rollout 1",
            "game 9: was added by hand",
        ),
    ],
)
def test_what_was_altered_by_hand_is_found(registry, opened, folder, statement, where, what):
    current = store.move(registry, opened, "progressing", "anna")
    ended = game(0, ended="terminated", score=10.0, steps=5)
    store.record_games(registry, current.id, "server", assigned=[game(0), game(1)])
    store.record_games(registry, current.id, "server", ended=[ended])
    assert whole(registry)
    sql(folder, statement)
    problem = registry.verify()[0]
    assert problem.where == where
    assert what in problem.what


def test_rows_that_make_no_sense_are_an_error_that_names_them(registry, opened, folder):
    store.record_games(registry, 1, "server", assigned=[game(0)])
    sql(folder, "UPDATE served_games SET role = 'king'")
    with pytest.raises(UnusableRegistryError, match="a game of rollout 1 cannot be read"):
        store.games_of(registry, 1)
    sql(folder, "UPDATE rollouts SET state = 'flying'")
    with pytest.raises(UnusableRegistryError, match="rollout 1 cannot be read"):
        store.rollouts_of(registry)


def test_rollouts_and_their_games_survive_export_and_import(registry, opened, tmp_path):
    store.record_games(registry, 1, "server", assigned=[game(0)])
    registry.export(tmp_path / "all.tar")
    with registry.import_(tmp_path / "all.tar", tmp_path / "copy") as copy:
        assert store.rollouts_of(copy) == [opened]
        assert store.games_of(copy, 1) == [game(0)]
        assert whole(copy)
