"""A record is no proof of itself: its games count once the emulator has confirmed them."""

import base64
import errno
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from rlarcade import DQNAgent, Player, compare_agents, evaluate_agent
from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.evaluation import record as record_module
from rlarcade.games import get_protocol

DATA = Path(__file__).parents[1] / "data"
SHORT = get_protocol("v5").model_copy(update={"name": "short", "frame_cap": 240})


def moving(observation):
    return int(observation.astype(np.int64).sum() % 4)


def player(version="v1", policy=moving):
    return Player(policy, game="space_invaders", protocol=SHORT, name=version, version=version)


def match(folder, **kept):
    return compare_agents(player("a"), player("b", lambda seen: 1), record=folder, **kept)


@pytest.fixture(scope="module")
def of_three_pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("match")
    match(folder, max_pairs=3)
    return folder


@pytest.fixture
def recorded(of_three_pairs, tmp_path):
    """A folder with the record of a match of three pairs."""
    return shutil.copytree(of_three_pairs, tmp_path / "m")


def one_file(folder):
    (path,) = folder.iterdir()
    return path


def changed(path, change):
    header, *lines = path.read_text().splitlines()
    pairs = [json.loads(line) for line in lines]
    change(pairs)
    path.write_text("\n".join([header, *map(json.dumps, pairs)]) + "\n")


def forged_win(pairs):
    pairs[0]["candidate"]["score"] += 1000


def without_traces(pairs):
    for pair in pairs:
        pair["champion"]["trace"] = pair["candidate"]["trace"] = None


def forged_wins_without_traces(pairs):
    for pair in pairs:
        for side, score in (("champion", 0.0), ("candidate", 100.0)):
            pair[side] |= {"score": score, "steps": 1, "ended": "terminated", "trace": None}


def failed_by_relabelling(pairs):
    pairs[0]["champion"] |= {"ended": "failed", "failure": "it crashed"}


def failed_before_its_end(pairs):
    game = pairs[0]["champion"]
    data = {key: zlib.decompress(base64.b64decode(game["trace"][key])) for key in game["trace"]}
    cut = {"actions": data["actions"][:5], "rewards": data["rewards"][:20]}
    game["trace"] = {k: base64.b64encode(zlib.compress(v)).decode() for k, v in cut.items()}
    game |= {"ended": "failed", "failure": "it crashed", "steps": 5, "score": 0.0}


def a_pair_taken_out(pairs):
    del pairs[1]


def pairs_swapped(pairs):
    pairs[0], pairs[1] = pairs[1], pairs[0]


@pytest.mark.parametrize(
    "forgery",
    [
        forged_win,
        without_traces,
        forged_wins_without_traces,
        failed_by_relabelling,
        failed_before_its_end,
        a_pair_taken_out,
        pairs_swapped,
    ],
)
def test_a_forged_record_of_a_match_is_refused_and_kept(recorded, forgery):
    path = one_file(recorded)
    changed(path, forgery)
    forged = path.read_bytes()
    with pytest.raises(RunFolderError, match=r"cannot be trusted|has other games") as refused:
        match(recorded, max_pairs=3)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == forged


def test_an_honest_record_counts_and_is_told(tmp_path):
    told = []
    first = match(tmp_path, max_pairs=3, on_record=lambda *found: told.append(found))
    assert told == []
    again = match(tmp_path, max_pairs=5, on_record=lambda *found: told.append(found))
    assert told == [(one_file(tmp_path), 3)]
    assert again.results[:3] == first.results


def test_a_recorded_failure_counts_only_if_the_player_fails_again(tmp_path):
    crashes = [True]

    def fragile(observation):
        if crashes[0] and observation[0].any() and observation.astype(np.int64).sum() % 7 == 0:
            raise RuntimeError("out of ideas")
        return moving(observation)

    def played(pairs):
        sides = player("a", fragile), player("b")
        return compare_agents(*sides, record=tmp_path, max_pairs=pairs)

    first = played(3)
    assert "failed" in {pair.champion.ended for pair in first.results}
    assert played(3).results == first.results
    crashes[0] = False
    with pytest.raises(RunFolderError, match="ended differently when they were played again"):
        played(3)


def test_a_forged_record_of_an_evaluation_is_refused(tmp_path):
    path = tmp_path / "games.part"
    evaluate_agent(player(), episodes=3, record=path)

    def better(games):
        games[1]["episode"]["score"] += 10

    changed(path, better)
    with pytest.raises(RunFolderError, match="cannot be trusted: v1's game with seed"):
        evaluate_agent(player(), episodes=3, record=path)


@pytest.mark.parametrize(
    "content", [b"precious", b"precious\n", b"precious\nlines\nof another", b"\x00\xff" * 100]
)
def test_a_foreign_file_at_a_records_path_is_not_touched(recorded, content):
    path = one_file(recorded)
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="is damaged or is another file"):
        match(recorded, max_pairs=1)
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "sparse", "deep"])
def test_what_is_no_record_is_refused_at_once(recorded, tmp_path, kind):
    path = one_file(recorded)
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "precious").write_text("precious")
        path.symlink_to(tmp_path / "precious")
    elif kind == "deep":
        path.write_text("[" * 100_000 + "\n")
    else:
        with path.open("wb") as file:
            file.truncate(60_000_000_000)
    with pytest.raises(RunFolderError):
        match(recorded, max_pairs=1)
    if kind == "link":
        assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("way", ["nothing", "half", "sync"])
def test_a_full_disk_is_one_error_and_the_record_stays_whole(recorded, monkeypatch, way):
    path = one_file(recorded)
    whole = path.read_bytes()
    real = os.write

    def full(descriptor, data):
        if way == "half":
            return real(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        if way == "sync":
            patched.setattr(record_module.os, "fsync", lambda _: full(None, b""))
        else:
            patched.setattr(record_module.os, "write", full)
        with pytest.raises(RunFolderError, match=r"No space left on device.*resumes from there"):
            match(recorded, max_pairs=4)
    assert path.read_bytes() == whole
    assert match(recorded, max_pairs=4).pairs == 4


@pytest.mark.usefixtures("real_games")
@pytest.mark.slow
def test_the_record_of_an_older_rlarcade_still_counts(tmp_path):
    shutil.copytree(DATA / "written-by-0.1.0" / "matches", tmp_path / "m")
    sides = [DQNAgent.load(DATA / f"space-invaders-{name}") for name in ("early", "late")]
    told = []
    found = compare_agents(*sides, record=tmp_path / "m", on_record=lambda *one: told.append(one))
    assert told == [(one_file(tmp_path / "m"), 8)]
    document = json.loads((DATA / "written-by-0.1.0" / "comparison.json").read_text())
    assert (found.verdict, found.pairs, found.e_value) == ("promote", 8, document["e_value"])


def test_numbers_of_games_that_nobody_can_play_are_refused_and_nothing_is_built(tmp_path):
    for count in (0, 3_000_000_000):
        with pytest.raises(ConfigError, match=r"max_pairs (must be at least 1|is at most 100,000)"):
            match(tmp_path, max_pairs=count)
        with pytest.raises(ConfigError, match=r"episodes (must be at least 1|is at most 100,000)"):
            evaluate_agent(player(), episodes=count)
    begun = []

    def stop(*_):
        begun.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_agent(player(), episodes=100_000, num_lanes=1, on_episode=stop)
    assert begun == [1]
