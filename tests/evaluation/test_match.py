"""Matches: pairs count in their order, and the record of one that was stopped goes on."""

import errno
import json
import math
import os
from itertools import islice

import numpy as np
import pytest
from scripted_games import Script, episode, play_instead

from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.evaluation import Comparison, PairResult, Rule, compare_agents, match, record
from rlarcade.evaluation.match import match_notes, new_match, pairs_of_match, play_pairs
from rlarcade.games import get_protocol
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.play import play_games
from rlarcade.playing.players import as_player
from rlarcade.playing.schedule import match_seeds
from rlarcade.seeding import SeedUse, derived_seed

SHORT = get_protocol("v5").model_copy(
    update={"name": "mine", "frame_cap": 240, "evaluation_epsilon": 0.3}
)
DIGESTS = ("aa" * 32, "bb" * 32)


class Agent:
    """Values that follow from the newest frame, in exact integers."""

    def __init__(self, seed=0, game="space_invaders", protocol=SHORT, version=None) -> None:
        self.game, self.protocol, self.version = game, protocol, version
        self.weights = np.random.default_rng(seed).integers(0, 1_000, (84 * 84, 6))

    def q_values(self, observation: np.ndarray) -> np.ndarray:
        frames = observation[:, 3].astype(np.int64).reshape(len(observation), -1)
        return (frames @ self.weights % 997).astype(np.float32)


@pytest.fixture
def scripted(monkeypatch):
    def script(results, lanes=40):
        played = Script(results, lanes)
        play_instead(monkeypatch, played)
        return played

    return script


# Order


def test_pairs_come_in_the_order_of_their_seeds_whatever_ends_first(scripted):
    durations = np.random.default_rng(0).random(400)
    scripted(lambda game: (game.seed, durations[game.seed * 2 % 400]))
    seeds = list(range(100, 200))
    pairs = list(play_pairs(as_player(Agent()), as_player(Agent(1)), seeds))
    assert [pair.seed for pair in pairs] == seeds


def coin(candidate, seed, slow_losses):
    """An equal candidate whose lost games last longer than its won ones."""
    won = np.random.default_rng(seed).random() < 0.5
    if not candidate:
        return 0.0, 1.0
    return (1.0, 1.0) if won else (-1.0, slow_losses)


def promoted(scripted, slow_losses, in_order, matches=120):
    """Share of matches between equals that an equal candidate wins, by Wald's test."""
    count = 0
    for number in range(matches):
        champion, candidate = as_player(Agent()), as_player(Agent(1))
        scripted(
            lambda game, candidate=candidate, number=number: coin(
                game.player is candidate, game.seed + 1_000 * number, slow_losses
            )
        )
        pairs = (
            play_pairs(champion, candidate, range(1_000))
            if in_order
            else as_they_end(champion, candidate, range(1_000))
        )
        ratio = 0.0  # of 60 % against 50 %
        for pair in pairs:
            ratio += math.log(1.2) if pair.outcome == 1 else math.log(0.8)
            if not math.log(0.05 / 0.95) < ratio < math.log(0.95 / 0.05):
                break
        count += ratio > 0
    return count / matches


def as_they_end(champion, candidate, seeds):
    """The wrong consumer: pairs count when they are complete."""
    ended = {}
    schedule = (match.Scheduled(agent, seed) for seed in seeds for agent in (champion, candidate))
    for index, result in match.play_games(schedule, 40):
        ended[index] = result
        if index ^ 1 in ended:
            first = index & ~1
            yield PairResult(champion=ended.pop(first), candidate=ended.pop(first + 1))


def test_slow_losers_are_promoted_only_by_those_who_count_pairs_as_they_end(scripted):
    # the published figures for 40 games in flight: 5 % in order, 63 % as they end
    assert promoted(scripted, slow_losses=3.0, in_order=True) < 0.15
    assert promoted(scripted, slow_losses=3.0, in_order=False) > 0.4


# Verdicts


def winning(share, tied=0.0):
    def results(game):
        draw = np.random.default_rng(game.seed).random()
        if game.player.name == "champion":
            return 0.0, 1.0
        return (1.0 if draw < share else 0.0 if draw < share + tied else -1.0), 1.0

    return results


def sides(versions=(None, None)):
    champion, candidate = Agent(version=versions[0]), Agent(1, version=versions[1])
    champion.name, candidate.name = "champion", "candidate"
    return champion, candidate


@pytest.mark.parametrize(
    ("share", "verdict"), [(1.0, "promote"), (0.9, "promote"), (0.0, "reject"), (0.3, "reject")]
)
def test_a_match_ends_with_the_pair_that_decides_it(scripted, share, verdict):
    scripted(winning(share))
    told = []
    ended = compare_agents(*sides(), on_pair=told.append)
    assert ended.verdict == verdict
    assert [one.verdict for one in told[:-1]] == [None] * (ended.pairs - 1)
    assert [one.pairs for one in told] == list(range(1, ended.pairs + 1))
    assert ended.pairs == ended.wins + ended.ties + ended.losses == len(ended.results)
    assert (ended.e_value >= 20) == (verdict == "promote")
    assert (ended.e_value_futility >= 10) == (verdict == "reject")


def test_an_undecided_match_ends_inconclusive_at_its_cap(scripted):
    scripted(winning(0.55, tied=0.1))
    ended = compare_agents(*sides(), max_pairs=20)
    assert (ended.verdict, ended.pairs) == ("inconclusive", 20)
    low, high = ended.interval
    assert low < ended.improvement_probability < high


def test_no_more_games_are_begun_than_lanes_need(scripted):
    played = scripted(winning(1.0), lanes=4)
    assert compare_agents(*sides(), num_lanes=4).pairs == 8
    assert played.begun <= 16 + 4


def test_a_candidate_that_is_not_inferior_passes_by_that_rule_alone(scripted):
    scripted(winning(0.5))
    rule = Rule.non_inferiority(0.1)
    assert compare_agents(*sides(), rule=rule, max_pairs=2_000).verdict == "promote"
    assert compare_agents(*sides(), max_pairs=2_000).verdict == "reject"


def test_equal_weights_are_not_played(scripted):
    played = scripted(winning(1.0))
    ended = compare_agents(*sides(("aa" * 32, "aa" * 32)))
    assert (ended.verdict, ended.pairs, ended.e_value, played.begun) == ("inconclusive", 0, 1, 0)
    assert "same version" in ended.notes[0]
    assert ended.improvement_probability is None


def test_a_version_can_be_matched_against_itself_with_other_dice(scripted):
    scripted(winning(0.0, tied=1.0))
    same = ("aa" * 32, "aa" * 32)
    ended = compare_agents(*sides(same), same_dice=False, max_pairs=10)
    assert ended.pairs == 10


def test_games_that_repeat_each_other_are_told(scripted):
    scripted(lambda game: (0.0, 1.0))
    assert "only 1 of 40 games differ" in compare_agents(*sides(), max_pairs=20).notes[0]
    scripted(lambda game: (float(game.seed), 1.0))
    assert compare_agents(*sides(), max_pairs=40).notes == ()
    assert compare_agents(*sides(), max_pairs=1).notes == ()


def pair_of(seed, champion, candidate):
    """A pair from (score, steps, how it ended) of both games; a failed one says which it was."""
    games = [
        EpisodeResult(
            seed=seed,
            score=score,
            steps=steps,
            ended=ended,
            failure=f"crash {seed}" if ended == "failed" else None,
        )
        for score, steps, ended in (champion, candidate)
    ]
    return PairResult(champion=games[0], candidate=games[1])


@pytest.mark.parametrize(
    ("different", "games", "told"), [(1, 20, False), (1, 22, True), (2, 40, False), (2, 42, True)]
)
def test_games_are_suspected_of_repeating_each_other_if_less_than_a_twentieth_differs(
    different, games, told
):
    ended = [(float(number % different), 10, "terminated") for number in range(games)]
    pairs = [pair_of(number, *ended[number : number + 2]) for number in range(0, games, 2)]
    words = f"only {different} of {games} games differ in score or length: "
    assert [note.startswith(words) for note in match_notes(pairs)] == [True] * told


def test_of_games_that_failed_the_first_is_told_and_how_many_were_cut():
    fine, cut = (1.0, 10, "terminated"), (2.0, 27, "truncated")
    pairs = [
        pair_of(1, fine, cut),
        pair_of(2, cut, (0.0, 7, "failed")),
        pair_of(3, cut, (0.0, 8, "failed")),
        pair_of(4, (0.0, 5, "failed"), (0.0, 9, "failed")),
    ]
    assert match_notes(pairs) == (
        "the champion failed in 1 of 4 games and lost them; first at step 5 of seed 4: crash 4",
        "the candidate failed in 3 of 4 games and lost them; first at step 7 of seed 2: crash 2",
        "2 of the champion's 4 games were cut by the frame cap",
        "1 of the candidate's 4 games were cut by the frame cap",
    )


def test_a_match_has_four_hundred_pairs_at_most_and_one_set_of_dice_unless_told_otherwise():
    same = ("aa" * 32, "aa" * 32)
    assert compare_agents(*sides(same)).max_pairs == 400
    players = as_player(Agent()), as_player(Agent(1))
    assert new_match(players, rule=Rule(), max_pairs=1, seed=0).same_dice is True


@pytest.mark.parametrize(("settings", "dice"), [({}, 0), ({"same_dice": False}, 1)])
def test_the_candidates_dice_are_the_champions_or_the_next_ones(scripted, settings, dice):
    drawn = []

    def results(game):
        drawn.append(game.dice)
        return 0.0, 1.0

    scripted(results)
    compare_agents(*sides(), max_pairs=2, **settings)
    assert drawn == [0, dice, 0, dice]


def test_pairs_share_their_dice_unless_told_otherwise(scripted):
    drawn = []

    def results(game):
        drawn.append(game.dice)
        return 0.0, 1.0

    scripted(results)
    assert len(list(play_pairs(as_player(Agent()), as_player(Agent(1)), [1, 2]))) == 2
    assert drawn == [0, 0, 0, 0]


def test_a_match_is_the_same_after_a_round_trip_through_json(scripted):
    scripted(winning(0.7, tied=0.1))
    ended = compare_agents(*sides(DIGESTS), max_pairs=30)
    document = json.loads(ended.model_dump_json())
    assert Comparison.model_validate(document) == ended
    expected = {"verdict", "wins", "ties", "losses", "pairs", "e_value", "e_value_futility"}
    assert expected | {"improvement_probability", "interval", "results"} <= set(document)


# What cannot be compared


def test_versions_of_different_games_are_refused():
    with pytest.raises(ConfigError, match="champion plays space_invaders, the candidate pong"):
        compare_agents(Agent(), Agent(game="pong"))
    with pytest.raises(ConfigError, match="champion plays pong, the candidate space_invaders"):
        compare_agents(Agent(game="pong"), Agent())


def test_versions_of_different_protocols_are_refused_with_the_difference():
    other = get_protocol("machado").model_copy(update={"name": "mine", "frame_cap": 240})
    message = "different protocols: .*full_action_space False and True"
    with pytest.raises(ConfigError, match=message):
        compare_agents(Agent(), Agent(protocol=other))


def test_a_match_without_anything_random_is_refused():
    fixed = SHORT.model_copy(update={"sticky": 0.0, "evaluation_epsilon": 0.0})
    with pytest.raises(ConfigError, match="nothing in this protocol is random"):
        compare_agents(Agent(protocol=fixed), Agent(1, protocol=fixed))


def test_a_setting_of_the_protocol_that_is_less_or_more_is_different():
    for cap in (239, 241):
        other = SHORT.model_copy(update={"frame_cap": cap})
        with pytest.raises(ConfigError, match=f"different protocols: frame_cap 240 and {cap}. The"):
            compare_agents(Agent(), Agent(1, protocol=other))


def test_one_random_thing_in_the_protocol_is_enough(scripted):
    scripted(winning(1.0))
    for settings in ({"sticky": 0.25}, {"evaluation_epsilon": 0.05}, {"max_noops": 30}):
        nothing = {"sticky": 0.0, "evaluation_epsilon": 0.0, "max_noops": 0}
        protocol = SHORT.model_copy(update=nothing | settings)
        ended = compare_agents(Agent(protocol=protocol), Agent(1, protocol=protocol), max_pairs=1)
        assert ended.pairs == 1


def test_what_two_files_say_in_the_same_words_is_the_same(scripted):
    scripted(winning(1.0))
    game = "".join(["space", "_", "invaders"])
    read = type(SHORT).model_validate_json(SHORT.model_dump_json())
    assert compare_agents(Agent(), Agent(1, game=game, protocol=read), max_pairs=1).pairs == 1


@pytest.mark.parametrize("values", [{"max_pairs": 0}, {"num_lanes": 0}])
def test_no_pairs_and_no_lanes_are_refused(values):
    with pytest.raises(ConfigError, match="must be at least 1"):
        compare_agents(Agent(), Agent(1), **values)


def test_a_document_in_which_a_pair_counts_twice_is_refused(scripted):
    scripted(winning(1.0))
    document = compare_agents(*sides(), max_pairs=3).model_dump(mode="json")
    assert Comparison.model_validate(document).pairs == 3
    document["results"].append(document["results"][1])
    with pytest.raises(ValueError, match=r"seed \d+ is there 2 times; each pair counts"):
        Comparison.model_validate(document)


def test_a_pair_has_one_seed():
    with pytest.raises(ValueError, match="a pair has one seed, not 1 and 2"):
        PairResult(champion=episode(1, 0), candidate=episode(2, 0))


# Seeds


def test_the_seeds_of_a_match_are_its_own():
    def seeds_of(*match):
        return list(islice(match_seeds(*match), 400))

    seeds = seeds_of(0, DIGESTS)
    assert len(set(seeds)) == 400
    others = [seeds_of(1, DIGESTS), seeds_of(0, DIGESTS[::-1]), seeds_of(0)]
    others += [[derived_seed(0, use, i) for i in range(400)] for use in SeedUse]
    for other in others:
        assert len(set(seeds) & set(other)) <= 1  # by chance, one in 10,000


# Real games


def test_games_of_a_match_are_those_of_an_evaluation():
    champion, candidate = as_player(Agent()), as_player(Agent(1))
    pairs = list(play_pairs(champion, candidate, [3, 4], num_lanes=3))
    for side, agent in (("champion", champion), ("candidate", candidate)):
        alone = dict(play_games([match.Scheduled(agent, seed) for seed in (3, 4)]))
        assert [getattr(pair, side) for pair in pairs] == [alone[0], alone[1]]


def test_a_match_does_not_depend_on_the_number_of_lanes():
    one, many = (
        compare_agents(Agent(), Agent(1), max_pairs=3, num_lanes=lanes) for lanes in (1, 5)
    )
    assert one == many


def test_other_dice_are_other_games():
    agent = Agent()
    same = compare_agents(agent, agent, max_pairs=2)
    apart = compare_agents(agent, agent, max_pairs=2, same_dice=False)
    assert all(pair.champion == pair.candidate for pair in same.results)
    assert any(pair.champion != pair.candidate for pair in apart.results)
    assert [p.champion for p in same.results] == [p.champion for p in apart.results]


# The record


def lines(folder):
    (path,) = folder.glob("*.jsonl")
    return path, path.read_bytes().splitlines(keepends=True)


def test_an_interrupted_match_goes_on_to_the_same_end(scripted, tmp_path):
    scripted(winning(0.75, tied=0.1))
    expected = compare_agents(*sides(DIGESTS))
    assert expected.pairs > 12

    def stop(newest):
        if newest.pairs in (5, 9):
            raise KeyboardInterrupt

    begun = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compare_agents(*sides(DIGESTS), record=tmp_path, on_pair=stop)
    played = scripted(winning(0.75, tied=0.1))
    ended = compare_agents(*sides(DIGESTS), record=tmp_path, on_pair=begun.append)
    assert ended == expected
    assert begun[0].pairs == 10
    assert played.begun <= 2 * (expected.pairs - 9) + 40
    again = scripted(winning(0.75, tied=0.1))
    assert compare_agents(*sides(DIGESTS), record=tmp_path) == expected
    assert again.begun == 0, "a decided match is not played again"


@pytest.mark.parametrize("kept", range(0, 700, 23))
def test_a_record_cut_anywhere_goes_on_to_the_same_end(scripted, tmp_path, kept):
    scripted(winning(0.75, tied=0.1))
    expected = compare_agents(*sides(DIGESTS), record=tmp_path)
    path, whole = lines(tmp_path)
    path.write_bytes(b"".join(whole)[:kept])
    assert compare_agents(*sides(DIGESTS), record=tmp_path) == expected
    assert lines(tmp_path)[1] == whole


def test_a_longer_match_goes_on_after_a_shorter_one(scripted, tmp_path):
    scripted(winning(0.55, tied=0.1))
    kept = {"record": tmp_path}
    assert compare_agents(*sides(DIGESTS), max_pairs=10, **kept).verdict == "inconclusive"
    longer = compare_agents(*sides(DIGESTS), max_pairs=25, **kept)
    assert longer == compare_agents(*sides(DIGESTS), max_pairs=25)
    assert compare_agents(*sides(DIGESTS), max_pairs=5, **kept).pairs == 5


def test_a_match_keeps_its_rule_to_the_end(scripted, tmp_path):
    scripted(winning(0.55))
    kept = {"record": tmp_path, "max_pairs": 5}
    compare_agents(*sides(DIGESTS), **kept)
    with pytest.raises(RunFolderError, match="record of another match, with another rule"):
        compare_agents(*sides(DIGESTS), rule=Rule(alpha=0.2), **kept)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: [whole[0], b"{}\n", *whole[2:]],
        lambda whole: [whole[0], whole[1].replace(b'"seed":', b'"sead":'), *whole[2:]],
        lambda whole: [b"[]\n", *whole[1:]],
        lambda whole: [b"\xff\n", *whole[1:]],
        lambda whole: whole[1:],
    ],
)
def test_a_damaged_record_is_refused_and_kept(scripted, tmp_path, damage):
    scripted(winning(0.55))
    kept = {"record": tmp_path, "max_pairs": 5}
    compare_agents(*sides(DIGESTS), **kept)
    path, whole = lines(tmp_path)
    damaged = b"".join(damage(whole))
    path.write_bytes(damaged)
    with pytest.raises(RunFolderError, match=r"is damaged|of another match"):
        compare_agents(*sides(DIGESTS), **kept)
    assert path.read_bytes() == damaged


def test_a_record_with_other_games_is_refused(scripted, tmp_path):
    scripted(winning(0.55))
    kept = {"record": tmp_path, "max_pairs": 5}
    compare_agents(*sides(DIGESTS), **kept)
    path, whole = lines(tmp_path)
    path.write_bytes(b"".join([whole[0], *whole[2:]]))
    with pytest.raises(RunFolderError, match="has other games than this match"):
        compare_agents(*sides(DIGESTS), **kept)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_record_in_which_one_seed_is_another_is_refused(scripted, tmp_path, change):
    scripted(winning(0.55))
    kept = {"record": tmp_path, "max_pairs": 5}
    compare_agents(*sides(DIGESTS), **kept)
    path, whole = lines(tmp_path)
    pair = json.loads(whole[2])
    for side in ("champion", "candidate"):
        pair[side]["seed"] += change
    path.write_bytes(b"".join([*whole[:2], json.dumps(pair).encode() + b"\n", *whole[3:]]))
    with pytest.raises(RunFolderError, match="has other games than this match"):
        compare_agents(*sides(DIGESTS), **kept)


@pytest.mark.parametrize("versions", [("aa" * 31 + "ac", "bb" * 32), ("aa" * 32, "bb" * 31 + "bc")])
def test_versions_whose_digests_begin_alike_share_no_record(scripted, tmp_path, versions):
    scripted(winning(0.55))
    kept = {"record": tmp_path, "max_pairs": 3}
    compare_agents(*sides(DIGESTS), **kept)
    with pytest.raises(RunFolderError, match="record of another match"):
        compare_agents(*sides(versions), **kept)


FAILED = (3.0, 12, "failed")


@pytest.mark.parametrize(
    ("again", "believed"),
    [
        (FAILED, True),
        ((2.0, 12, "failed"), False),
        ((4.0, 12, "failed"), False),
        ((3.0, 11, "failed"), False),
        ((3.0, 13, "failed"), False),
        ((3.0, 12, "terminated"), False),
    ],
)
@pytest.mark.parametrize("failing", ["champion", "candidate"])
def test_a_recorded_failure_is_believed_if_it_comes_again_exactly_as_it_was(
    monkeypatch, tmp_path, failing, again, believed
):
    fails, played = [FAILED], []

    def scripts(schedule, num_lanes, failures_count):
        for index, game in enumerate(schedule):
            played.append(game.seed)
            wrong = game.player.name == failing and index < 4
            ended = fails[0] if wrong else (5.0, 20, "terminated")
            yield index, pair_of(game.seed, ended, ended).champion

    play_instead(monkeypatch, scripts)
    first = compare_agents(*sides(DIGESTS), record=tmp_path, max_pairs=3)
    assert [pair.outcome for pair in first.results].count(0.5) == 1
    fails[0] = again
    del played[:]
    if believed:
        assert compare_agents(*sides(DIGESTS), record=tmp_path, max_pairs=3) == first
        assert played == [pair.seed for pair in first.results[:2] for _ in range(2)]
    else:
        with pytest.raises(RunFolderError, match=r"trusted: the games with seed \d+ ended differ"):
            compare_agents(*sides(DIGESTS), record=tmp_path, max_pairs=3)


def test_nothing_is_played_again_of_a_record_that_no_emulator_confirms(monkeypatch, tmp_path):
    played = []

    def scripts(schedule, num_lanes, failures_count):
        for index, game in enumerate(schedule):
            played.append(game.seed)
            yield index, pair_of(game.seed, FAILED, FAILED).champion

    play_instead(monkeypatch, scripts)
    compare_agents(*sides(DIGESTS), record=tmp_path, max_pairs=2)
    del played[:]
    monkeypatch.setattr(match, "first_problem", lambda recordings: "made up.")
    with pytest.raises(RunFolderError, match="cannot be trusted: made up. Move it away"):
        compare_agents(*sides(DIGESTS), record=tmp_path, max_pairs=2)
    assert played == []


def test_a_suite_and_a_match_of_the_same_two_share_no_record(scripted, tmp_path):
    scripted(winning(0.55))
    players = [as_player(one) for one in sides(DIGESTS)]
    asked = new_match(players, rule=Rule(), max_pairs=2, seed=0)
    games = {"games": ["space_invaders", "pong"]}
    for _ in range(2):
        with pairs_of_match(asked, players, tmp_path, 2, suite=games) as (earlier, pairs):
            assert len(earlier) + len(list(pairs)) == 2
    assert json.loads(lines(tmp_path)[1][0])["suite"] == games
    with (
        pytest.raises(RunFolderError, match="record of another match, with another suite. Resume"),
        pairs_of_match(asked, players, tmp_path, 2),
    ):
        pass


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"\x1b[2J": 1}, r"another \\x1b\[2J. Resume"),
        ({"nothing": None}, "another content. Resume"),
    ],
)
def test_a_record_whose_first_line_says_more_is_another_ones(scripted, tmp_path, more, told):
    scripted(winning(0.55))
    kept = {"record": tmp_path, "max_pairs": 2}
    compare_agents(*sides(DIGESTS), **kept)
    path, whole = lines(tmp_path)
    header = json.dumps(json.loads(whole[0]) | more)
    path.write_bytes(b"".join([header.encode() + b"\n", *whole[1:]]))
    with pytest.raises(RunFolderError, match=told):
        compare_agents(*sides(DIGESTS), **kept)


def test_two_processes_do_not_play_one_match(scripted, tmp_path):
    scripted(winning(0.55))
    kept = {"record": tmp_path, "max_pairs": 3}

    def meanwhile(newest):
        with pytest.raises(RunFolderError, match="being played by another process"):
            compare_agents(*sides(DIGESTS), **kept)

    compare_agents(*sides(DIGESTS), on_pair=meanwhile, **kept)


def test_a_record_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written: Not a directory"):
        compare_agents(*sides(DIGESTS), record=tmp_path / "file" / "matches", max_pairs=1)


def test_a_full_disk_ends_the_match_and_keeps_what_was_played(scripted, tmp_path, monkeypatch):
    scripted(winning(0.55))
    kept = {"record": tmp_path, "max_pairs": 6}
    expected = compare_agents(*sides(DIGESTS), max_pairs=6)
    synced = []

    def full(number, real=os.fsync):
        synced.append(number)
        if len(synced) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(record.os, "fsync", full)
        with pytest.raises(RunFolderError, match=r"No space left on device.*resumes from there"):
            compare_agents(*sides(DIGESTS), **kept)
    told = []
    assert compare_agents(*sides(DIGESTS), on_pair=told.append, **kept) == expected
    assert told[0].pairs > 3


def test_a_match_of_versions_without_digests_cannot_be_kept(tmp_path):
    with pytest.raises(ConfigError, match="between players with a version"):
        compare_agents(*sides(), record=tmp_path)
