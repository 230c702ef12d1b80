"""What the tests of reports share: made-up results, and pages read back."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from itertools import combinations

import numpy as np

from rlarcade.evaluation import (
    Comparison,
    Evaluation,
    PairResult,
    RoundRobin,
    Rule,
    SuiteComparison,
)
from rlarcade.evaluation.documents import Side
from rlarcade.games import get_protocol
from rlarcade.playing import EpisodeResult

VOID = {"meta", "img", "wbr"}


def episode(seed, score, steps=500, ended="terminated", failure=None):
    return EpisodeResult(seed=seed, score=score, steps=steps, ended=ended, failure=failure)


def evaluation(scores, game="space_invaders", name="runs/a", protocol="v5", **fields):
    episodes = tuple(episode(100 + i, float(score), 400 + i) for i, score in enumerate(scores))
    settings = {"version": "ab" * 32, "epsilon": 0.01, "seed": 3, "episodes": episodes}
    return Evaluation(
        checkpoint=name, game=game, protocol=get_protocol(protocol), **settings | fields
    )


def match(
    scores,
    rule=None,
    max_pairs=400,
    game="space_invaders",
    names=("old", "new"),
    first=1_000,
    **fields,
):
    """A match from (champion's score, candidate's score) pairs; a score may be an episode.

    The pairs have the seeds from `first` on.
    """
    pairs = []
    for place, sides in enumerate(scores):
        games = [
            one
            if isinstance(one, EpisodeResult)
            else episode(first + place, float(one), 300 + place)
            for one in sides
        ]
        pairs.append(PairResult(champion=games[0], candidate=games[1]))
    return Comparison(
        champion=Side(checkpoint=names[0], version="aa" * 32),
        candidate=Side(checkpoint=names[1], version="bb" * 32),
        game=game,
        protocol=get_protocol("v5"),
        rule=rule or Rule(),
        seed=5,
        max_pairs=max_pairs,
        results=tuple(pairs),
        **fields,
    )


def mixed(count, share=0.55, seed=0):
    """Scores of pairs of which the candidate wins about this share."""
    rng = np.random.default_rng(seed)
    champions = rng.integers(0, 60, count) * 5
    better = np.where(rng.random(count) < share, 1, -1) * rng.integers(0, 9, count) * 5
    return [(a, max(0, a + b)) for a, b in zip(champions.tolist(), better.tolist(), strict=True)]


def suite(games, guard="prove", margin=0.1, max_rounds=400, notes=None):
    """A suite from each game's (champion's score, candidate's score) pairs."""
    matches = [
        match(
            scores,
            Rule.non_inferiority(margin),
            max_pairs=max_rounds,
            game=game,
            names=(f"runs/{game}-old", f"runs/{game}-new"),
            notes=(notes or {}).get(game, ()),
        )
        for game, scores in games.items()
    ]
    return SuiteComparison(
        rule=Rule(useful=0.58),
        guard=guard,
        margin=margin,
        max_rounds=max_rounds,
        matches=tuple(matches),
    )


def round_robin(names, scores, max_pairs=400):
    """A round robin from the scores of the pairs of every two, by their places; none: no pairs."""
    matches = [
        match(
            scores.get((one, other), ()),
            Rule.which_is_better(),
            max_pairs=max_pairs,
            names=(names[one], names[other]),
            first=1_000 * (10 * one + other + 1),
        )
        for one, other in combinations(range(len(names)), 2)
    ]
    return RoundRobin(players=tuple(names), matches=tuple(matches))


def slow_e_value(outcomes, null=0.5):
    """The oracle: twenty-four bets, one after the other, and one pair after the other."""
    money = []
    for k in range(24):
        stake, coin = 0.02 * 49 ** (k / 23) / null, 1.0
        for outcome in outcomes:
            coin *= 1 + stake * (outcome - null)
        money.append(coin)
    return math.fsum(money) / 24


def outcomes_of(scores):
    """Of pairs of scores: 1, ½ or 0."""
    return [0.5 + 0.5 * ((new > old) - (new < old)) for old, new in scores]


class Node:
    """An element of a page."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    @property
    def text(self):
        parts = (c if isinstance(c, str) else c.text for c in self.children)
        return re.sub(r"\s+", " ", "".join(parts)).strip()

    def all(self, tag=None, **attributes):
        """Elements below this one, in order."""
        for child in self.children:
            if isinstance(child, Node):
                wanted = {name.rstrip("_"): value for name, value in attributes.items()}
                if (tag is None or child.tag == tag) and wanted.items() <= child.attributes.items():
                    yield child
                yield from child.all(tag, **attributes)

    def one(self, tag=None, **attributes):
        (found,) = self.all(tag, **attributes)
        return found

    def rows(self):
        """The cells of a table below, without its heading, as texts."""
        body = self.one("tbody")
        return [
            [cell.text for cell in row.children if isinstance(cell, Node)] for row in body.all("tr")
        ]

    def records(self):
        """The rows of a table below, by its headings."""
        heads = [head.text for head in self.one("thead").all("th")]
        return [dict(zip(heads, row, strict=True)) for row in self.rows()]

    def facts(self):
        """A list of terms below."""
        terms = [term.text for term in self.all("dt")]
        return dict(zip(terms, (fact.text for fact in self.all("dd")), strict=True))


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Node("page", {})]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, attrs)
        assert len(node.attributes) == len(attrs), f"an attribute twice in {attrs}"
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        assert any(node.tag == "svg" for node in self.open), f"<{tag}/> is not HTML"
        self.open[-1].children.append(Node(tag, attrs))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read(html):
    """Parses a page; every element must be closed where it should be."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert [node.tag for node in reader.open] == ["page"]
    return reader.open[0]
