import ale_py
import gymnasium
import pytest

from rlarcade.errors import ConfigError, GameError
from rlarcade.games import all_games, display_name, resolve_game

gymnasium.register_envs(ale_py)

# Gymnasium's registry is written by ALE and knows the game behind each of its environment ids.
REGISTERED = {
    spec.id: spec.kwargs["game"]
    for spec in gymnasium.registry.values()
    if str(spec.entry_point).startswith("ale_py")
}
V5 = {name: game for name, game in REGISTERED.items() if name.startswith("ALE/")}
MULTIPLAYER = ["combat", "joust", "maze_craze", "warlords"]


def test_the_104_single_player_games_are_known():
    assert len(V5) == 104
    assert all_games() == tuple(sorted(V5.values()))


def test_every_rom_id_resolves_to_itself():
    assert [resolve_game(game) for game in all_games()] == list(all_games())


@pytest.mark.parametrize("spelling", ["{}", "ALE/{}-v5", "{}NoFrameskip-v4", " {} ", "{}-v0"])
def test_every_game_resolves_from_its_usual_spellings(spelling):
    for env_id, game in V5.items():
        name = env_id.removeprefix("ALE/").removesuffix("-v5")
        assert resolve_game(spelling.format(name)) == game


def test_every_environment_id_that_gymnasium_registers_resolves():
    assert {name: resolve_game(name) for name in REGISTERED} == REGISTERED


@pytest.mark.parametrize(
    "name", ["space-invaders", "SPACE_INVADERS", "spaceinvaders", "Space Invaders"]
)
def test_case_and_separators_do_not_matter(name):
    assert resolve_game(name) == "space_invaders"


def test_display_name_is_the_name_in_the_environment_id():
    assert [f"ALE/{display_name(game)}-v5" for game in V5.values()] == list(V5)


@pytest.mark.parametrize("game", MULTIPLAYER)
def test_multiplayer_roms_are_refused_by_name(game):
    assert game not in all_games()
    for name in (game, display_name(game), f"ALE/{display_name(game)}-v5"):
        with pytest.raises(GameError, match="no single-player mode") as error:
            resolve_game(name)
        assert repr(name) in str(error.value)
        others = set(MULTIPLAYER) - {game}
        assert all(other in str(error.value) for other in others)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Pnog", "Pong"),
        ("SpaceInvader", "SpaceInvaders"),
        ("ALE/Brekout-v5", "Breakout"),
        ("sea_qest", "Seaquest"),
        ("MontezumaRevengeNoFrameskp-v4", "MontezumaRevenge"),
    ],
)
def test_a_misspelt_game_is_answered_with_the_near_ones(name, meant):
    with pytest.raises(GameError, match="Did you mean") as error:
        resolve_game(name)

    assert repr(name) in str(error.value)
    assert meant in str(error.value)


@pytest.mark.parametrize("name", ["", "xyzzy9", "ALE/-v5", "../../etc/passwd"])
def test_an_unknown_game_is_a_config_error_that_names_some_games(name):
    with pytest.raises(ConfigError, match="SpaceInvaders, Pong and Breakout") as error:
        resolve_game(name)

    assert isinstance(error.value, GameError)
    assert "104 games" in str(error.value)


@pytest.mark.parametrize(
    "name", [None, 5, b"pong", ["pong"], "p" * 1_000_000], ids=lambda n: str(n)[:9]
)
def test_what_is_no_name_of_a_game_is_refused_in_one_short_line(name):
    with pytest.raises(
        GameError, match="a game's name is a text such as 'SpaceInvaders', got"
    ) as e:
        resolve_game(name)
    assert len(str(e.value)) < 150
