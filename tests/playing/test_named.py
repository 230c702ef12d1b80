"""What a command line can name as a player."""

import sys

import pytest

from rlarcade.checkpoint import load_checkpoint
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError, ConfigError, GameError
from rlarcade.games.protocols import get_protocol
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.named import named_players, told_unkept


@pytest.fixture(scope="module")
def pong(tmp_path_factory):
    config = TrainConfig(game="pong", conv_channels=(2, 2, 2), hidden_units=4)
    path = tmp_path_factory.mktemp("agents") / "pong"
    DQNAgent(config, num_actions=6).save(path)
    return str(path)


@pytest.fixture(scope="module")
def breakout(tmp_path_factory):
    config = TrainConfig(
        game="breakout", protocol="machado", conv_channels=(2, 2, 2), hidden_units=4
    )
    path = tmp_path_factory.mktemp("agents") / "breakout"
    DQNAgent(config, num_actions=18).save(path)
    return str(path)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own, in the folder they stand in."""
    path = tmp_path / "own_policies.py"
    path.write_text(
        "def still(game):\n    return lambda observation: 0\n\n"
        "class Known:\n    version = 'v7'\n    def predict(self, *_, **__): return [0], None\n"
        "def known(game):\n    return Known()\n\n"
        "def number(game):\n    return 3\n\n"
        "def told(game, text):\n    still.told = (game, text)\n    return Known()\n\n"
        "def refuses(game, text):\n"
        "    from rlarcade import ConfigError\n    raise ConfigError(text + ' is no zip.')\n\n"
        "def broken(game):\n    raise KeyError(game)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_policies", raising=False)
    return path


def test_a_checkpoint_is_named_by_its_path_and_known_by_its_digest(pong):
    (player,) = named_players([pong])
    assert (player.name, player.game, player.protocol.name) == (pong, "pong", "v5")
    assert player.version == load_checkpoint(pong).manifest.weights_sha256


def test_random_plays_what_the_checkpoint_beside_it_plays(pong, breakout):
    for names in ([pong, "random"], ["random", pong]):
        players = named_players(names)
        assert [player.game for player in players] == ["pong", "pong"]
        assert [player.name for player in players] == names
    one, other = named_players([breakout, "random"])
    assert one.protocol == other.protocol
    assert other.protocol.name == "machado"


def test_a_checkpoint_plays_under_the_protocol_that_is_named(pong, monkeypatch):
    agents, load = [], DQNAgent.load

    def noted(*args, **kwargs):
        agents.append(load(*args, **kwargs))
        return agents[-1]

    monkeypatch.setattr(DQNAgent, "load", noted)
    players = named_players([pong, "random"], protocol="nature")
    assert {player.protocol for player in players} == {get_protocol("nature")}
    assert [agent.protocol for agent in agents] == [get_protocol("v5")], "nothing is written to it"


def test_random_alone_is_told_its_game():
    (player,) = named_players(["random"], game="SpaceInvaders", protocol="nature")
    assert (player.game, player.protocol.name) == ("space_invaders", "nature")


def test_a_policy_of_your_own_is_found_in_the_working_folder_and_has_no_version(own):
    """Its source file says nothing of its weights."""
    (player,) = named_players(["own_policies:still"], game="pong")
    assert (player.name, player.game, player.version) == ("own_policies:still", "pong", None)
    assert told_unkept([player]).startswith("own_policies:still has no version, so these games")


def test_a_policy_that_knows_its_version_is_known_by_its_name_and_it(own):
    (player,) = named_players(["own_policies:known"], game="pong")
    assert player.version == "own_policies:known@v7"
    assert told_unkept([player]) is None


@pytest.mark.parametrize("text", ["old.zip", "", "a=b:c", "runs/x y\n"])
def test_a_factory_is_given_the_text_behind_the_equals_sign(own, text):
    name = f"own_policies:told={text}"
    (player,) = named_players([name], game="pong")
    assert sys.modules["own_policies"].still.told == ("pong", text)
    assert player.name == name
    assert player.version == "own_policies:told@v7", "a file that was moved holds the same policy"


def test_what_a_factory_says_to_the_user_is_said_alone(own):
    with pytest.raises(ConfigError, match=r"^own_policies:refuses=a\.zip: a\.zip is no zip\.$"):
        named_players(["own_policies:refuses=a.zip"], game="pong")


def test_a_factory_that_lacks_its_text_is_told_how_it_gets_one(own):
    with pytest.raises(
        ConfigError, match=r"TypeError.* told\('pong'\) must .*told=TEXT gives it a second argument"
    ):
        named_players(["own_policies:told"], game="pong")
    with pytest.raises(ConfigError, match=r"still\('pong', 'x'\) must return .* predict\.$"):
        named_players(["own_policies:still=x"], game="pong")


@pytest.mark.parametrize("version", ["7", "''", "'a b'", "'x' * 201", "'\\x1b[31m'", "b'v1'"])
def test_a_version_that_is_no_plain_text_is_refused(own, version):
    own.write_text(
        f"class Odd:\n    version = {version}\n    def __call__(self, seen): return 0\n\n"
        "def make(game):\n    return Odd()\n"
    )
    with pytest.raises(ConfigError, match="own_policies:make has version .* must be a text of"):
        named_players(["own_policies:make"], game="pong")


@pytest.mark.parametrize(
    "body",
    [
        "import sys\nsys.exit()\n",
        "def make(game):\n    raise SystemExit(0)\n",
        "def make(game):\n    raise GeneratorExit\n",
        "class Odd:\n    def __call__(self, seen): return 0\n    @property\n"
        "    def version(self): raise SystemExit(4)\ndef make(game):\n    return Odd()\n",
        "class Odd:\n    def __call__(self, seen): return 0\n    @property\n"
        "    def sees(self): raise SystemExit(3)\ndef make(game):\n    return Odd()\n",
        "def make(game)\n    return 1\n",
    ],
)
def test_a_module_that_exits_gives_no_policy_and_no_exit(own, body):
    own.write_text(body)
    with pytest.raises(ConfigError, match=r"own_policies:make gave no policy: (Sys|Gen|Syn)"):
        named_players(["own_policies:make"], game="pong")


def test_the_line_of_the_users_own_code_is_told(own):
    own.write_text("import json\n\n\ndef make(game):\n    return json.loads('{')\n")
    with pytest.raises(ConfigError, match=r"JSONDecod.*\(own_policies\.py, line 5, in make\)"):
        named_players(["own_policies:make"], game="pong")


def test_a_checkpoint_can_play_by_another_protocol_with_the_same_actions(pong, breakout):
    assert named_players([pong], protocol="nature")[0].protocol.name == "nature"
    with pytest.raises(
        ConfigError, match=r"trained under machado, which has other actions than v5"
    ):
        named_players([breakout], protocol="v5")


def test_several_games_can_be_evaluated_but_not_with_one_whose_game_is_unknown(pong, breakout):
    assert [p.game for p in named_players([pong, breakout])] == ["pong", "breakout"]
    with pytest.raises(ConfigError, match="which game should the others play.*pong and breakout"):
        named_players([pong, breakout, "random"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["random"], "which game should the others play.*no checkpoint says"),
        (["human"], "human is a published score"),
        (["own_policies:nobody"], "gave no policy: AttributeError"),
        (["own_policies:number"], "is no policy: int cannot be called"),
        (["own_policies:broken"], "gave no policy: KeyError: 'pong'.* must return a function"),
        (["no_such_module:make"], "gave no policy: ModuleNotFoundError"),
    ],
    ids=str,
)
def test_who_is_nobody_is_refused(own, names, message):
    with pytest.raises(ConfigError, match=message):
        named_players(names, game=None if names == ["random"] else "pong")


def test_checkpoints_that_are_missing_or_of_another_game_are_refused(pong):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        named_players(["nowhere"])
    with pytest.raises(ConfigError, match="plays pong, not breakout"):
        named_players([pong], game="Breakout")
    with pytest.raises(GameError, match="Did you mean"):
        named_players(["random"], game="Breakuot")
    assert named_players([]) == []


def test_a_file_whose_name_looks_like_an_entry_point_is_a_path(own):
    (own.parent / "a:b").mkdir()
    with pytest.raises(CheckpointError, match="a:b holds no checkpoint"):
        named_players(["a:b"])
    (own.parent / "a:b=c").mkdir()
    with pytest.raises(CheckpointError, match="a:b=c holds no checkpoint"):
        named_players(["a:b=c"])
