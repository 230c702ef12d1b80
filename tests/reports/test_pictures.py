"""The curve beside a game: drawn step by step, and as if each picture were drawn by itself."""

import numpy as np
import pytest
from PIL import ImageDraw

from rlarcade.games import get_protocol
from rlarcade.games.playback import Frame
from rlarcade.playing.episodes import EpisodeResult, Trace
from rlarcade.playing.players import SearchTree
from rlarcade.playing.recordings import Recording
from rlarcade.reports import pictures as module
from rlarcade.reports.pictures import pictures

DARK = np.zeros((210, 160, 3), dtype=np.uint8)


@pytest.fixture
def game(monkeypatch):
    """Makes a recorded game of some steps, with values; its screen is dark."""

    def made(steps):
        rewards = [10 if step % 5 == 2 else 0 for step in range(steps)]

        def play_back(*_):
            yield Frame(DARK, -1, 0.0)
            for step, reward in enumerate(rewards):
                yield Frame(DARK, step, float(reward))

        monkeypatch.setattr(module, "play_back", play_back)
        trace = Trace.of([step % 6 for step in range(steps)], rewards)
        episode = EpisodeResult(
            seed=1, score=sum(rewards), steps=steps, ended="terminated", trace=trace
        )
        recording = Recording("space_invaders", get_protocol("v5"), "somebody", None, episode)
        jumps = np.random.default_rng(0).normal(size=(steps, 6)).astype(np.float32)
        return recording, jumps.cumsum(axis=0)

    return made


@pytest.mark.parametrize("steps", [1, 2, 40, 400])  # 400: more steps than columns of pixels
def test_a_picture_is_the_same_whatever_was_drawn_before_it(game, steps):
    recording, values = game(steps)
    one_after_the_other = dict(pictures(recording, values))
    for step in {0, 1, steps // 3, steps // 2, steps - 1} & set(range(steps)):
        ((_, alone),) = pictures(recording, values, steps=range(step, step + 1))
        np.testing.assert_array_equal(one_after_the_other[step], alone)


def test_a_game_of_twice_the_length_is_twice_the_drawing(game, monkeypatch):
    drawn = []

    def counted(real):
        def draw(self, places, **settings):
            drawn.append(len(places))
            real(self, places, **settings)

        return draw

    for name in ("line", "ellipse"):
        monkeypatch.setattr(ImageDraw.ImageDraw, name, counted(getattr(ImageDraw.ImageDraw, name)))
    work = []
    for steps in (150, 300):
        drawn.clear()
        list(pictures(*game(steps)))
        work.append(sum(drawn))
    assert work[1] == pytest.approx(2 * work[0], rel=0.05)


def test_a_tree_stands_in_the_place_of_the_curve_and_no_choice_is_called_random(game, monkeypatch):
    texts = []
    real = ImageDraw.ImageDraw.text

    def text(self, place, words, **settings):
        texts.append(words)
        real(self, place, words, **settings)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    recording, values = game(3)
    list(pictures(recording, values))
    assert "value of the best action" in texts
    assert "explored" in texts  # the actions do not follow from the values
    texts.clear()
    tree = SearchTree(
        np.array([-1, 0, 0], dtype=np.int32),
        np.array([-1, 0, 1], dtype=np.int32),
        np.array([3, 1, 1], dtype=np.int32),
        np.array([0, 1, 0], dtype=np.float32),
    )
    list(pictures(recording, values, trees=[tree] * 3))
    assert {"the future it looked at", "2 states"} <= set(texts)
    assert not {"explored", "value of the best action"} & set(texts)
