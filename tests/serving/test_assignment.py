"""Who plays for a key: shares that hold, keys that stay, salts that are independent."""

import math
import os
import subprocess
import sys
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from tiers import quick

from rlarcade.serving import assignment
from rlarcade.serving.assignment import Plan, Variant, assign, share_point

CHAMPION, CANDIDATE = 7, 8
KEYS = [f"player-{number}" for number in range(100_000)]


def plan(candidate, control=0.0, *, salt="salt", groups=None):
    """A plan with these shares; the champion has the rest."""
    shares = {"champion": 1 - candidate - control, "control": control, "candidate": candidate}
    versions = {"champion": CHAMPION, "control": CHAMPION, "candidate": CANDIDATE}
    return Plan(
        variants=tuple(
            Variant(role=role, version=versions[role], share=max(share, 0.0))
            for role, share in shares.items()
        ),
        salt=salt,
        groups=groups,
    )


def bounds(share, trials):
    """Counts that a fair coin leaves with a probability of one in a million, on either side."""
    return binom.ppf(5e-7, trials, share), binom.isf(5e-7, trials, share)


# Points


def test_a_point_is_keyed_blake2b_as_a_share_of_two_to_the_64():
    for key, salt in (("a", "s"), ("player 12", "rollout-3"), ("", "x" * 64)):
        digest = blake2b(key.encode(), key=salt.encode(), digest_size=8).hexdigest()
        assert share_point(key, salt) == pytest.approx(int(digest, 16) / 2**64, abs=2**-53)


def test_the_points_of_known_keys_never_move():
    # written down when the hash was chosen: another hash would move players in the middle of a game
    known = {"player-1": 0.8150546430213368, "player-2": 0.6430376791041791}
    assert {key: share_point(key, "salt") for key in known} == known


def test_the_largest_digest_is_still_below_one(monkeypatch):
    class Largest:
        def __init__(self, *_, **__): ...

        def digest(self):
            return b"\xff" * 8

    monkeypatch.setattr(assignment, "blake2b", Largest)
    assert share_point("any", "salt") < 1
    assert assign(plan(1.0), "any").role == "candidate"


@given(key=st.text(), salt=st.text(min_size=1, max_size=16))
def test_any_text_has_a_point(key, salt):
    assert 0 <= share_point(key, salt) < 1


def test_half_a_surrogate_pair_is_a_key_like_any_other():
    assert share_point("\ud800", "salt") != share_point("\ud801", "salt")


# Who stays


@given(
    key=st.text(),
    shares=st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted),
    salt=st.text(min_size=1, max_size=8),
)
def test_a_key_that_the_candidate_plays_for_stays_as_the_share_grows(key, shares, salt):
    was = False
    for share in shares:
        control = min(share, 1 - share)
        now = assign(plan(share, control, salt=salt), key).role == "candidate"
        assert now or not was
        was = now


@given(key=st.text(), share=st.floats(0, 1))
def test_the_same_key_has_the_same_variant_every_time(key, share):
    assert assign(plan(share), key) == assign(plan(share), key)


def test_other_processes_assign_alike():
    here = [assign(plan(0.2, 0.2), key).role for key in KEYS[:200]]
    told = subprocess.run(
        [
            sys.executable, "-c",
            "from rlarcade.serving.assignment import *\n"
            "v = [Variant(role=r, version=7, share=s) for r, s in"
            " (('champion', .6), ('control', .2), ('candidate', .2))]\n"
            "p = Plan(variants=tuple(v), salt='salt')\n"
            "print(*(assign(p, f'player-{n}').role for n in range(200)))",
        ],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "1"},
    )  # fmt: skip
    assert told.stdout.split() == here


# Shares


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5])
def test_shares_of_a_hundred_thousand_keys_are_binomial(share):
    shared = plan(share, min(share, 1 - share))
    roles = [assign(shared, key).role for key in KEYS]
    for role in ("candidate", "control"):
        low, high = bounds(share, len(KEYS))
        assert low <= roles.count(role) <= high


@pytest.mark.parametrize("players", quick([5_000, 100_000], [5_000]))
def test_twenty_requests_of_every_key_leave_the_shares_as_they_are(players):
    shared = plan(0.05, 0.05)
    keys = KEYS[:players]
    once = [assign(shared, key).role for key in keys]
    often = [assign(shared, key).role for _ in range(20) for key in keys]
    assert often == once * 20
    low, high = bounds(0.05, players)
    assert low <= often.count("candidate") / 20 <= high


def test_other_salts_assign_independently():
    share = 0.3
    first, second = (plan(share, salt=salt) for salt in ("one", "two"))
    both = sum(assign(first, key).role == assign(second, key).role == "candidate" for key in KEYS)
    low, high = bounds(share**2, len(KEYS))
    assert low <= both <= high


def test_a_share_of_all_takes_every_key_and_a_share_of_none_takes_none():
    assert {assign(plan(1.0), key).role for key in KEYS[:1000]} == {"candidate"}
    assert {assign(plan(0.0), key).role for key in KEYS[:1000]} == {"champion"}
    assert {assign(plan(0.0, 1.0), key).role for key in KEYS[:1000]} == {"control"}


def test_shares_that_miss_one_by_the_last_bit_leave_no_key_without_a_variant(monkeypatch):
    tenth = 1 - 1e-10
    short = Plan(
        variants=(
            Variant(role="champion", version=1, share=0.0),
            Variant(role="candidate", version=2, share=tenth),
        ),
        salt="salt",
    )
    monkeypatch.setattr(assignment, "share_point", lambda key, salt: math.nextafter(1, 0))
    assert assign(short, "any").role == "candidate"


def test_an_edge_belongs_to_the_one_above(monkeypatch):
    shared = plan(0.25, 0.25)
    for point, role in ((0.0, "candidate"), (0.25, "control"), (0.5, "champion")):
        monkeypatch.setattr(assignment, "share_point", lambda key, salt, point=point: point)
        assert assign(shared, "any").role == role


# Groups


def test_groups_that_a_plan_does_not_name_stay_with_the_champion():
    phased = plan(1.0, groups=("staff", "beta"))
    assert assign(phased, "any", "beta").role == "candidate"
    assert assign(phased, "any", "public").role == "champion"
    assert assign(phased, "any").role == "champion"
    assert assign(plan(1.0), "any", "public").role == "candidate"
    assert assign(plan(1.0, groups=()), "any", "public").role == "champion"


# Plans


def test_a_plan_says_who_has_a_role_and_survives_json():
    shared = plan(0.25, 0.25, groups=("staff",))
    assert shared.variant("candidate").version == CANDIDATE
    assert shared.variant("control").version == CHAMPION
    assert plan(1.0).variant("champion").share == 0
    alone = Plan(variants=(Variant(role="champion", version=1, share=1.0),), salt="salt")
    assert alone.variant("candidate") is None
    assert Plan.model_validate_json(shared.model_dump_json()) == shared


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([("champion", 1, 0.5), ("candidate", 2, 0.4)], "the shares of a plan sum to 1, not 0.9"),
        ([("candidate", 2, 1.0)], "a plan has the champion, and each role at most once"),
        (
            [("champion", 1, 0.5), ("champion", 1, 0.5)],
            r"a plan has the champion, and each role at most once, not \['champion', 'champion'\]",
        ),
        (
            [("champion", 1, 0.8), ("control", 2, 0.1), ("candidate", 2, 0.1)],
            "the control plays the champion's version 1, not 2",
        ),
        ([("champion", 1, 1.5), ("candidate", 2, -0.5)], "less than or equal to 1"),
        ([("champion", 1, math.nan)], "finite"),
    ],
)
def test_a_plan_that_does_not_add_up_is_refused(variants, message):
    with pytest.raises(ValueError, match=message):
        Plan(variants=[Variant(role=r, version=v, share=s) for r, v, s in variants], salt="salt")


@pytest.mark.parametrize("salt", ["", "x" * 65, "é" * 33])
def test_a_salt_has_1_to_64_bytes(salt):
    with pytest.raises(ValueError, match=f"a salt has 1 to 64 bytes, not {len(salt.encode())}"):
        plan(0.1, salt=salt)
