import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_helpers import blob_file, flip_a_byte, sql, whole

from rlarcade import Rule
from rlarcade.errors import GameError, RegistryError, StaleError
from rlarcade.registry.aliases import stack
from rlarcade.registry.documents import Alias, AliasMove


def promote(registry, number, *, game="pong", kind="promote", **settings):
    generation = registry.generation(game)
    return registry.move_alias(
        game, "champion", number, expected_generation=generation, kind=kind, **settings
    )


def test_an_alias_points_where_it_was_moved_to(registry, add):
    first, second = add(1), add(2)
    assert registry.alias("pong") is None
    alias = promote(registry, 1)
    assert alias == Alias(
        game="pong", name="champion", version=1, digest=first.digest, generation=1
    )
    assert promote(registry, 2).digest == second.digest
    assert registry.alias("ALE/Pong-v5").generation == 2
    assert registry.version(2).aliases == ("champion",)
    assert [v.aliases for v in registry.versions()] == [(), ("champion",)]


def test_aliases_are_per_game_and_free_to_name(registry, add):
    add(1), add(2, "breakout")
    promote(registry, 1)
    promote(registry, 2, game="breakout")
    registry.move_alias("pong", "best-of_3", 1, expected_generation=0, kind="set")
    assert [(a.game, a.name, a.version) for a in registry.aliases()] == [
        ("breakout", "champion", 2),
        ("pong", "best-of_3", 1),
        ("pong", "champion", 1),
    ]
    assert [a.name for a in registry.aliases("Pong")] == ["best-of_3", "champion"]
    assert registry.version(1).aliases == ("best-of_3", "champion")


@pytest.mark.parametrize("kind", ["force", "set", "promote"])
def test_every_move_keeps_the_user_of_the_system_beside_who_is_said_to_have_made_it(
    registry, add, kind, monkeypatch
):
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000)  # whom nobody knows by name
    add(1), add(2)
    promote(registry, 1, kind=kind, actor="ann", reason="demo")
    promote(registry, 2, kind=kind)
    registry.rollback("pong")
    moves = [event for event in registry.events() if event.kind in (kind, "rollback")]
    assert [event.document["os_user"] for event in moves] == ["uid 4000000"] * 3
    assert [move.os_user for move in registry.history("pong")] == ["uid 4000000"] * 3
    assert [event.actor for event in moves] == ["ann", "somebody-else", "somebody-else"]
    assert whole(registry)


def test_the_history_tells_every_move_with_who_and_why(registry, add):
    add(1), add(2)
    digest = registry.put_document(Rule())
    promote(registry, 1, actor="ann", reason="first")
    promote(registry, 2, actor="bob", verdict=digest)
    promote(registry, 1, actor="eve", kind="force", reason="I want it")
    registry.move_alias("pong", "other", 2, expected_generation=0, kind="set")
    moves = registry.history("Pong")
    assert [
        (m.version, m.previous, m.generation, m.kind, m.actor, m.reason, m.verdict) for m in moves
    ] == [
        (1, None, 1, "promote", "ann", "first", None),
        (2, 1, 2, "promote", "bob", None, digest),
        (1, 2, 3, "force", "eve", "I want it", None),
    ]
    assert all(AliasMove.model_validate_json(m.model_dump_json()) == m for m in moves)
    assert [m.version for m in registry.history("pong", "other")] == [2]
    assert whole(registry)


def test_whoever_looked_too_early_is_told_both_generations_and_who_moved_it(registry, add):
    add(1), add(2)
    promote(registry, 1)
    promote(registry, 2, actor="bob")
    message = (
        "STALE: the champion of pong is at generation 2, not 1 as expected. Moves since then: "
        r"promote from version 1 to version 2 by bob \(2.*\). Nothing was changed"
    )
    with pytest.raises(StaleError, match=message):
        registry.move_alias("pong", "champion", 1, expected_generation=1, kind="promote")
    with pytest.raises(StaleError, match="at generation 2, not 7 as expected. Nothing was changed"):
        registry.move_alias("pong", "champion", 1, expected_generation=7, kind="promote")
    with pytest.raises(StaleError, match="is at generation 0, not 1"):
        registry.move_alias("pong", "other", 1, expected_generation=1, kind="promote")
    assert registry.alias("pong").version == 2
    assert len(registry.history("pong")) == 2


def test_an_alias_that_was_taken_away_keeps_counting(registry, add):
    add(1)
    with pytest.raises(RegistryError, match="pong has no champion to take away"):
        promote(registry, None, kind="set")
    promote(registry, 1)
    assert promote(registry, None, kind="set") is None
    assert registry.alias("pong") is None
    assert registry.aliases() == []
    assert registry.generation("pong") == 2
    with pytest.raises(StaleError, match="from version 1 to none by"):
        registry.move_alias("pong", "champion", 1, expected_generation=1, kind="promote")
    assert promote(registry, 1).generation == 3
    assert whole(registry)


@pytest.mark.parametrize("kind", ["promote", "set", "force"])
def test_no_alias_moves_to_what_must_not_be_used(registry, add, folder, kind):
    add(1), add(2, "breakout"), add(3), add(4)
    registry.archive(3)
    flip_a_byte(blob_file(folder, registry.version(4).digest))
    for number, message in (
        (9, "the registry has no version 9"),
        (2, "version 2 plays Breakout and cannot be the champion of Pong"),
        (3, "version 3 is archived and cannot become champion"),
        (4, "version 4 is broken and cannot be used: blobs/sha256/"),  # noticed right now
        (4, "version 4 is broken and cannot become champion: blobs/sha256/"),  # known since then
    ):
        with pytest.raises(RegistryError, match=message):
            promote(registry, number, kind=kind)
    assert registry.alias("pong") is None
    assert registry.history("pong") == []


@pytest.mark.parametrize(
    "name", ["", "Champion", "1st", "../x", "a/b", "a" * 65, "a\n", "a b", "chämpion", "a\0"]
)
def test_what_is_no_name_is_refused(registry, add, name):
    add(1)
    with pytest.raises(RegistryError, match="cannot be an alias. Begin with a-z"):
        registry.move_alias("pong", name, 1, expected_generation=0, kind="set")
    assert registry.aliases() == []


@pytest.mark.parametrize("name", ["", "Champion", "a b", "\udcff", "x" * 65])
def test_what_is_no_name_is_not_looked_for(registry, name):
    for look in (registry.alias, registry.generation, registry.history):
        with pytest.raises(RegistryError, match="cannot be an alias"):
            look("pong", name)


def test_a_game_that_never_had_a_champion_is_told_so(registry, add):
    add(1)
    with pytest.raises(RegistryError, match="pong never had a champion"):
        registry.rollback("pong")


def test_a_game_that_does_not_exist_has_no_alias(registry):
    with pytest.raises(GameError, match="unknown game"):
        registry.move_alias("../x", "champion", 1, expected_generation=0, kind="set")


def test_a_move_of_another_kind_is_a_mistake_in_the_code(registry, add):
    add(1)
    with pytest.raises(ValueError, match="kind"):
        promote(registry, 1, kind="steal")
    assert registry.generation("pong") == 0


def test_a_move_rests_on_a_document_that_is_there(registry, add):
    add(1)
    with pytest.raises(RegistryError, match="no document abababababab… to justify the move"):
        promote(registry, 1, verdict="ab" * 32)
    with pytest.raises(RegistryError, match="'../../x' is not a sha256 digest"):
        promote(registry, 1, verdict="../../x")


def test_a_move_can_be_part_of_a_transaction_and_is_undone_with_it(registry, add):
    add(1)
    with registry.change("ann") as change:
        change.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
        change.record("submission", {"id": 1})
    assert [e.kind for e in registry.events()] == ["register", "promote", "submission"]
    assert [e.actor for e in registry.events(1)] == ["ann", "ann"]
    with pytest.raises(StaleError):
        take_it_away_twice(registry)
    assert registry.alias("pong").version == 1
    assert len(list(registry.events())) == 3


def take_it_away_twice(registry):
    with registry.change() as change:
        for _ in range(2):  # the second comes too late
            change.move_alias("pong", "champion", None, expected_generation=1, kind="set")


def test_damage_found_inside_a_transaction_is_told_at_once(registry, add, folder):
    flip_a_byte(blob_file(folder, add(1).digest))
    with (
        pytest.raises(RegistryError, match="version 1 is broken and cannot be used"),
        registry.change() as change,
    ):
        change.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    assert [e.kind for e in registry.events()] == ["register"]


def test_rolling_back_twice_goes_further_back_and_never_flips_forward(registry, add):
    for content in range(4):
        add(content)
        promote(registry, content + 1)
    assert [v.number for v in registry.previous_champions("pong")] == [3, 2, 1]
    assert registry.rollback("pong", actor="ann", reason="worse").version == 3
    assert registry.rollback("Pong").version == 2
    assert [v.number for v in registry.previous_champions("pong")] == [1]
    assert registry.rollback("pong").version == 1
    with pytest.raises(RegistryError, match="the champion of pong has no intact earlier version"):
        registry.rollback("pong")
    move = registry.history("pong")[4]
    assert (move.kind, move.actor, move.reason) == ("rollback", "ann", "worse")
    assert (move.version, move.previous, move.generation) == (3, 4, 5)
    assert whole(registry)


def test_a_promotion_after_a_roll_back_rolls_back_to_where_that_led(registry, add):
    for content in range(4):
        add(content)
    promote(registry, 1), promote(registry, 2), promote(registry, 3)
    registry.rollback("pong", to=1)
    promote(registry, 4)
    assert [v.number for v in registry.previous_champions("pong")] == [1]
    assert registry.rollback("pong").version == 1


def test_one_can_roll_back_to_any_champion_before_but_to_nothing_else(registry, add):
    for content in range(5):
        add(content)
    for number in (1, 2, 3, 4):
        promote(registry, number)
    with pytest.raises(RegistryError, match="cannot roll back to version 5: it is not one of"):
        registry.rollback("pong", to=5)
    with pytest.raises(RegistryError, match="cannot roll back to version 4"):
        registry.rollback("pong", to=4)
    with pytest.raises(RegistryError, match="no version '9'"):
        registry.rollback("pong", to=9)
    assert registry.rollback("pong", to=registry.version(2).digest).version == 2
    with pytest.raises(RegistryError, match="cannot roll back to version 3"):
        registry.rollback("pong", to="3")
    with pytest.raises(RegistryError, match="cannot roll back to version 4"):
        promote(registry, 4, kind="rollback")
    with pytest.raises(RegistryError, match="cannot roll back to none"):
        promote(registry, None, kind="rollback")


def test_a_roll_back_passes_over_what_is_broken_archived_or_found_damaged_now(
    registry, add, folder
):
    versions = [add(content) for content in range(5)]
    for number in range(1, 6):
        promote(registry, number)
    registry.archive(4)
    flip_a_byte(blob_file(folder, versions[2].digest))
    assert registry.verify(3)  # broken and known
    blob_file(folder, versions[1].manifest_digest).unlink()  # broken and not known
    assert [v.number for v in registry.previous_champions("pong")] == [2, 1]
    assert registry.rollback("pong").version == 1
    assert registry.version(2).state == "broken"
    with pytest.raises(RegistryError, match="no intact earlier version"):
        registry.rollback("pong")


def test_a_broken_champion_can_be_rolled_back(registry, add, folder):
    for content in range(2):
        add(content)
        promote(registry, content + 1)
    flip_a_byte(blob_file(folder, registry.version(2).digest))
    registry.verify()
    assert registry.alias("pong").version == 2
    assert registry.rollback("pong").version == 1


def test_a_champion_that_was_taken_away_comes_back_by_a_roll_back(registry, add):
    add(1)
    promote(registry, 1)
    promote(registry, None, kind="set")
    assert registry.rollback("pong").version == 1


def test_a_roll_back_can_be_bound_to_what_was_looked_at(registry, add):
    for content in range(2):
        add(content)
        promote(registry, content + 1)
    with pytest.raises(StaleError, match="at generation 2, not 1"):
        registry.rollback("pong", expected_generation=1)
    assert registry.rollback("pong", expected_generation=2).version == 1


def test_other_aliases_roll_back_by_their_own_history(registry, add):
    for content in range(3):
        add(content)
        promote(registry, content + 1)
    for generation, number in enumerate((3, 1)):
        registry.move_alias("pong", "canary", number, expected_generation=generation, kind="set")
    assert registry.rollback("pong", name="canary").version == 3
    assert registry.alias("pong").version == 3


def test_moving_to_where_it_points_already_gives_nothing_to_roll_back_to(registry, add):
    add(1), add(2)
    for number in (1, 2, 2, 2):
        promote(registry, number)
    assert registry.rollback("pong").version == 1


def moves_of(steps):
    """Makes moves from (kind, version); of a roll back only those that are possible."""
    below: list = []  # the obvious stack: what lies under the present version
    present, moves = None, []
    for kind, version in steps:
        if kind == "rollback":
            if version not in below:
                continue
            while below[-1] != version:
                below.pop()
            below.pop()
            present = version
        else:
            if moves and version != present:
                below.append(present)
            present = version
        moves.append(
            AliasMove(
                game="pong", name="champion", version=version, previous=None, kind=kind,
                generation=len(moves) + 1, actor="", reason=None, time="", verdict=None,
            )
        )  # fmt: skip
    return moves, [*below, present] if moves else []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["promote", "set", "force", "rollback", "rollback"]),
            st.integers(1, 5),
        ),
        max_size=40,
    )
)
def test_replaying_moves_is_a_stack(steps):
    moves, expected = moves_of(steps)
    assert stack(moves) == expected


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.sampled_from([1, 2, 3, 4, "back"]), min_size=1, max_size=12))
def test_any_promotions_and_roll_backs_end_where_a_stack_does(registry, add, steps):
    for content in range(4):
        add(content)
    name = "a" + hashlib.sha256(repr(steps).encode()).hexdigest()[:20]  # a new one each time
    if registry.generation("pong", name):
        return
    held = []
    for step in steps:
        if step != "back":
            generation = registry.generation("pong", name)
            registry.move_alias("pong", name, step, expected_generation=generation, kind="promote")
            held += [step] if held[-1:] != [step] else []
            continue
        # Back to the last that is another one; what was the same version in between is no way back.
        below = [i for i, number in enumerate(held[:-1]) if number != held[-1]]
        if below:
            assert registry.rollback("pong", name=name).version == held[below[-1]]
            held = held[: below[-1] + 1]
        else:
            with pytest.raises(RegistryError, match="no intact earlier version"):
                registry.rollback("pong", name=name)
    alias = registry.alias("pong", name)
    assert (alias and alias.version) == (held[-1] if held else None)


def test_a_history_that_was_forged_is_told(registry, add, folder):
    add(1)
    promote(registry, 1)
    sql(folder, "UPDATE events SET document = '{\"game\":\"pong\",\"name\":\"champion\"}' "
        "WHERE kind = 'promote'")  # fmt: skip
    with pytest.raises(RegistryError, match="event 2 of the audit log was altered: it records no"):
        registry.history("pong")
    assert sql(folder, "SELECT count(*) FROM aliases") == [(1,)]
