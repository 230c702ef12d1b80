"""Games of a rollout for tests: short to write, and drawn by Hypothesis."""

from hypothesis import strategies as st

from rlarcade.serving.pairing import Game

VERSIONS = {"champion": 1, "control": 1, "candidate": 2}


def game(number, role, score=None, *, step=0, key=None, **fields):
    """A game; with a score it has ended and is proven. Each has its own player unless told."""
    ended = {} if score is None else {"state": "ended", "ended": "terminated", "score": score}
    told = {"seed": number, **ended, "proven": score is not None, **fields}
    key = f"player-{number}" if key is None else key
    return Game(number=number, role=role, step=step, key=key, version=VERSIONS[role], **told)


def failed(number, role, **fields):
    """A game whose version failed."""
    return game(number, role, state="ended", ended="failed", errors=True, **fields)


def match(outcomes, *, step=0, start=0):
    """Pairs of ended games with these outcomes for the candidate, 1, ½ or 0."""
    games = []
    for place, outcome in enumerate(outcomes):
        number = start + 2 * place
        games.append(game(number, "control", 100.0, step=step))
        games.append(game(number + 1, "candidate", 50.0 + 100 * outcome, step=step))
    return games


def _one(number, step, role, key, how, score, claimed, seeded, flags):
    fields = {"step": step, "key": f"player-{key}", "claimed": claimed}
    fields |= dict(zip(("errors", "slow", "abandoned"), flags, strict=True))
    if not seeded:
        fields["seed"] = None
    if how == "playing":
        return game(number, role, **fields)
    if how == "failed":
        return game(number, role, state="ended", ended="failed", **fields)
    return game(number, role, float(score), proven=how == "proven" and seeded, **fields)


@st.composite
def rollouts(draw, most=24, keys=30):
    """Games of a rollout of up to three steps, in order of assignment."""
    length = draw(st.integers(0, most))
    steps = sorted(draw(st.lists(st.integers(0, 2), min_size=length, max_size=length)))
    return [
        _one(
            number,
            step,
            draw(st.sampled_from(["champion", "control", "candidate", "candidate", "control"])),
            draw(st.integers(0, keys)),
            draw(st.sampled_from(["playing", "failed", "unproven", "proven", "proven", "proven"])),
            draw(st.integers(0, 3)),
            draw(st.sampled_from([None, 0.0, 2.0, 1e6])),
            draw(st.integers(0, 9)) > 0,
            draw(st.tuples(st.booleans(), st.booleans(), st.booleans())),
        )
        for number, step in enumerate(steps)
    ]
