import pytest

from rlarcade.games import all_games, human_normalized_score, published_scores

# Wang et al. (2016), https://arxiv.org/abs/1511.06581, table 2: 30 no-op starts.
KNOWN = {
    "alien": (227.8, 7127.7),
    "beam_rider": (363.9, 16926.5),
    "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5),
    "enduro": (0.0, 860.5),
    "montezuma_revenge": (0.0, 4753.3),
    "ms_pacman": (307.3, 6951.6),
    "pong": (-20.7, 14.6),
    "private_eye": (24.9, 69571.3),
    "qbert": (163.9, 13455.0),
    "seaquest": (68.4, 42054.7),
    "skiing": (-17098.1, -4336.9),
    "space_invaders": (148.0, 1668.7),
    "venture": (0.0, 1187.5),
    "video_pinball": (16256.9, 17667.9),
}


def games_with_scores() -> list[str]:
    return [game for game in all_games() if published_scores(game) is not None]


def test_57_games_have_published_scores():
    assert len(games_with_scores()) == 57


def test_no_published_score_belongs_to_a_game_that_does_not_exist():
    from rlarcade.games.scores import _table

    assert set(_table()) <= set(all_games())


@pytest.mark.parametrize("game", KNOWN)
def test_published_scores_are_those_of_the_papers(game):
    published = published_scores(game)

    assert published is not None
    assert (published.random, published.human) == KNOWN[game]
    assert published.source


def test_the_human_normalized_score_is_0_at_random_and_1_at_human():
    for game in games_with_scores():
        published = published_scores(game)
        middle = (published.random + published.human) / 2
        assert human_normalized_score(game, published.random) == 0.0
        assert human_normalized_score(game, published.human) == 1.0
        assert human_normalized_score(game, middle) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("game", "score", "expected"),
    [
        # Space Invaders: (908.35 - 148) / 1520.7; Pong: (21 + 20.7) / 35.3; below random: negative
        ("space_invaders", 908.35, 0.5),
        ("pong", 21.0, 41.7 / 35.3),
        ("breakout", 0.0, -1.7 / 28.8),
    ],
)
def test_worked_examples_of_the_human_normalized_score(game, score, expected):
    assert human_normalized_score(game, score) == pytest.approx(expected)


def test_humans_outscore_random_players_in_every_game():
    # Skiing's scores are negative times; a better one is still the larger.
    assert all(
        published_scores(game).human > published_scores(game).random for game in games_with_scores()
    )


@pytest.mark.parametrize("game", ["tetris", "no_such_game", "SpaceInvaders"])
def test_a_game_without_published_scores_has_none(game):
    assert published_scores(game) is None
    assert human_normalized_score(game, 100.0) is None


def test_the_table_is_read_once_and_nobody_can_alter_it():
    published = published_scores("pong")
    assert published_scores("pong") is published
    with pytest.raises(AttributeError):
        published.human = 0.0
    assert published_scores("pong").human == 14.6
