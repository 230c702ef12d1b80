"""`rlarcade export --card`: a checkpoint that travels, and whether what it claims is true."""

import getpass
import json
import re
import shutil
import socket
from pathlib import Path
from statistics import fmean, median, pstdev

import numpy as np
import pytest
import yaml
from PIL import Image

from rlarcade import cards
from rlarcade.cards import check_own_game, open_card
from rlarcade.cards.clip import clip_of
from rlarcade.cards.model_card import model_card
from rlarcade.checkpoint import load_checkpoint
from rlarcade.errors import RecordingError
from rlarcade.evaluation import Evaluation, evaluate_agent
from rlarcade.evaluation.documents import recordings_of
from rlarcade.games import get_protocol
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.episodes import Trace
from rlarcade.playing.players import AgentPlayer

DATA = Path(__file__).parent.parent / "data"
LATE, EARLY = DATA / "space-invaders-late", DATA / "space-invaders-early"
NAME = "SpaceInvaders-quick-40000"
FILES = ["README.md", "clip.gif", "evaluation.json", "manifest.json", "weights.safetensors"]
ALL_RANDOM = get_protocol("v5").model_copy(update={"name": "dice", "evaluation_epsilon": 1.0})
NEVER_RANDOM = get_protocol("v5").model_copy(update={"name": "none", "evaluation_epsilon": 0.0})


STEPS = 15


@pytest.fixture(scope="module", autouse=True)
def _short_clips():
    """A clip of 10 seconds takes three to write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlarcade.cards.clip._SECONDS", STEPS // 15)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A card, written by the command. Tests that alter it use `card`."""
    from rlarcade import export

    path = tmp_path_factory.mktemp("cards") / "invaders"
    assert export.main([str(LATE), "--card", str(path), "--games", "3", "--seed", "5"]) == 0
    return path


@pytest.fixture
def card(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "card"))


@pytest.fixture(scope="module")
def agent():
    return DQNAgent.load(LATE)


def scores_of(card):
    (evaluation,) = json.loads((card / "evaluation.json").read_text())["evaluations"]
    return [episode["score"] for episode in evaluation["episodes"]]


def metadata_of(card):
    _, header, _ = (card / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header)


def change(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1, f"{old} is not in {path.name}"
    path.write_text(text.replace(old, new, 1))


# What a card holds


def test_a_card_holds_the_checkpoint_unchanged_and_loads(written, agent):
    assert sorted(path.name for path in written.iterdir()) == FILES
    for name in ("manifest.json", "weights.safetensors"):
        assert (written / name).read_bytes() == (LATE / name).read_bytes()
    assert DQNAgent.load(written).version == agent.version


def test_a_versions_card_has_its_manifest_too(command, tmp_path):
    assert command("promote", "register", LATE, "--registry", tmp_path / "registry")[0] == 0
    flags = ["--registry", tmp_path / "registry", "--card", tmp_path / "card", "--games", 1]
    code, _, err = command("export", 1, *flags)
    assert (code, err) == (0, "")
    there, here = (
        json.loads((at / "manifest.json").read_text()) for at in (LATE, tmp_path / "card")
    )
    assert here == there
    assert command("watch", tmp_path / "card", "--verify")[0] == 0


def test_an_agent_of_the_zoo_is_verified_by_its_card(command, card, tmp_path, monkeypatch):
    monkeypatch.setattr("rlarcade.zoo._AGENTS", tmp_path)
    card.rename(tmp_path / "space_invaders")
    code, out, _ = command("watch", "zoo:SpaceInvaders", "--verify")
    assert code == 0
    assert "3 of 3 games reproduced to the point" in out
    change(
        tmp_path / "space_invaders" / "README.md", "agent steps | 40,000", "agent steps | 39,000"
    )
    assert command("watch", "zoo:SpaceInvaders", "--verify")[0] == 1


def test_its_metadata_have_the_form_that_the_hub_documents(written):
    found = metadata_of(written)
    assert found["library_name"] == "rlarcade"
    assert "reinforcement-learning" in found["tags"]
    (entry,) = found["model-index"]
    assert entry["name"] == NAME
    (result,) = entry["results"]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"]["type"] == "ALE/SpaceInvaders-v5"
    assert result["dataset"]["name"] == "ALE/SpaceInvaders-v5, protocol v5"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    scores = scores_of(written)
    assert values["mean_reward"] == f"{fmean(scores):.2f} +/- {pstdev(scores):.2f}"
    assert values["median_reward"] == pytest.approx(median(scores))
    # random 148, human 1,668.7: the table of most papers
    assert values["human_normalized_score"] == pytest.approx(
        (fmean(scores) - 148) / (1668.7 - 148), abs=1e-4
    )


def test_nothing_of_this_machine_is_in_it(command, tmp_path, monkeypatch):
    home = tmp_path / "home-of-somebody"
    checkpoint = Path(shutil.copytree(LATE, home / "secret-project" / "late"))
    document = home / "games.json"
    assert command("evaluate", checkpoint, "--episodes", 1, "--json", document)[0] == 0
    flags = ["--card", tmp_path / "card", "--evaluation", document]
    assert command("export", checkpoint, *flags)[0] == 0
    told = [str(tmp_path), "home-of-somebody", "secret-project", str(Path.home()) + "/"]
    told += [socket.gethostname()] if len(socket.gethostname()) > 3 else []
    told += [getpass.getuser()] if getpass.getuser() not in ("root", "user") else []
    for path in (tmp_path / "card").iterdir():
        found = [word for word in told if word.encode() in path.read_bytes()]
        assert not found, f"{path.name} tells {found}"


def test_its_commands_work_as_they_are_printed(command, card, monkeypatch):
    monkeypatch.chdir(card)
    text = (card / "README.md").read_text()
    (block,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0].split() for line in block.splitlines()]
    assert len(lines) == 3
    outputs = []
    for python, dash, module, *arguments in lines:
        assert (python, dash, module.partition(".")[0]) == ("python", "-m", "rlarcade")
        code, out, err = command(module.partition(".")[2], *arguments)
        assert (code, err) == (0, "")
        outputs.append(out)
    assert "3 of 3 games reproduced to the point" in outputs[0]
    assert (card / "game.mp4").stat().st_size > 1_000
    assert f"mean {fmean(scores_of(card)):.1f}" in outputs[2], "the same games, played again"
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})


def test_its_clip_moves_and_is_small(written):
    with Image.open(written / "clip.gif") as clip:
        assert clip.n_frames == STEPS
        assert clip.width <= 520
    assert (written / "clip.gif").stat().st_size < 3_000_000


def test_a_card_without_a_clip_tells_of_none_and_is_verified(agent, tmp_path, command):
    games = evaluate_agent(AgentPlayer(agent, name=cards.card_name(agent.manifest)), episodes=2)
    path = tmp_path / "card"
    sizes = cards.write_card(path, load_checkpoint(LATE), agent, games, with_clip=False)
    files = {"weights.safetensors", "manifest.json", "evaluation.json", "README.md"}
    assert {one.name for one in path.iterdir()} == set(sizes) == files
    assert "clip.gif" not in (path / "README.md").read_text()
    code, out, _ = command("watch", path, "--verify")
    assert (code, "2 of 2 games reproduced to the point" in out) == (0, True)


def test_a_clip_ends_with_its_game(agent):
    game = next(iter(recordings_of(evaluate_agent(agent, episodes=1))))
    clip = clip_of(agent, game)
    assert 0 <= clip.first <= clip.last < game.episode.steps
    assert clip.last - clip.first == STEPS - 1


def test_a_game_of_a_card_is_shown_as_a_picture_with_the_agents_values(command, card, tmp_path):
    code, out, _ = command("watch", card)
    assert (code, out.count("SpaceInvaders  seed")) == (0, 3)
    code, _, err = command("watch", card, "--episode", 2, "--picture", tmp_path / "2.png")
    assert (code, err) == (0, "")
    code, _, err = command("watch", card, "--episode", 3, "--picture", tmp_path / "3.png")
    assert code == 2
    assert "has no episode 3: it holds 0 to 2" in err


# What a card claims


def test_true_claims_are_confirmed(command, card):
    code, out, err = command("watch", card, "--verify")
    assert (code, err) == (0, "")
    assert "3 of 3 games reproduced to the point" in out


def test_words_and_quotes_of_a_card_may_be_edited(command, card):
    change(
        card / "README.md",
        "## How to play it",
        "## My own words\n\nIt is fun.\n\n## How to play it",
    )
    change(card / "README.md", "library_name", "license: mit\nlibrary_name")
    change(card / "README.md", f"- name: {NAME}", f'- name: "{NAME}"')
    assert command("watch", card, "--verify")[0] == 0


def test_metadata_that_a_tool_has_written_anew_claim_the_same(command, card):
    """`ModelCard.save` of huggingface_hub writes the whole header with PyYAML."""
    _, header, text = (card / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(header) | {"license": "mit"}
    header = yaml.dump(found, sort_keys=False, allow_unicode=True)
    (card / "README.md").write_text(f"---\n{header}---\n{text}")
    assert command("watch", card, "--verify")[0] == 0


def raise_a_score(card):
    claims = json.loads((card / "evaluation.json").read_text())
    claims["evaluations"][0]["episodes"][1]["score"] += 5
    (card / "evaluation.json").write_text(json.dumps(claims))


def raise_the_mean(card):
    claims = json.loads((card / "evaluation.json").read_text())
    claims["evaluations"][0]["mean"] += 100
    (card / "evaluation.json").write_text(json.dumps(claims))


def leave_out_a_game(card):
    claims = json.loads((card / "evaluation.json").read_text())
    del claims["evaluations"][0]["episodes"][0]
    (card / "evaluation.json").write_text(json.dumps(claims))


def raise_epsilon(card):
    claims = json.loads((card / "evaluation.json").read_text())
    claims["evaluations"][0]["epsilon"] = 0.5
    (card / "evaluation.json").write_text(json.dumps(claims))


def swap_two_actions(card):
    edit_first_game(card, lambda steps: [(1 - action % 2, paid) for action, paid in steps])


def edit_first_game(card, edit):
    (claims,) = json.loads((card / "evaluation.json").read_text())["evaluations"]
    evaluation = Evaluation.model_validate(claims)
    first, *others = evaluation.episodes
    actions, rewards = zip(*edit(first.trace.steps), strict=True)
    trace = Trace.of(list(actions), list(rewards))
    altered = evaluation.model_copy(
        update={"episodes": (first.model_copy(update={"trace": trace}), *others)}
    )
    document = {"evaluations": [altered.model_dump(mode="json")]}
    (card / "evaluation.json").write_text(json.dumps(document))


def flip_a_weight(card):
    data = bytearray((card / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (card / "weights.safetensors").write_bytes(data)


def put_another_agent_in(card):
    for name in ("manifest.json", "weights.safetensors"):
        shutil.copy(EARLY / name, card / name)


def claim_a_higher_mean(card):
    change(card / "README.md", "| mean | ", "| mean | 9")


def claim_a_higher_mean_in_the_metadata(card):
    change(card / "README.md", "value: ", "value: 9")


def claim_one_more_result(card):
    change(card / "README.md", "    metrics:\n", "    metrics:\n    - type: wins\n      value: 1\n")


LAST_METRIC = "      name: human_normalized_score\n"


def claim_one_more_result_at_the_end(card):
    change(card / "README.md", LAST_METRIC, f"{LAST_METRIC}    - type: wins\n      value: 1\n")


def leave_out_the_end_of_the_metadata(card):
    change(card / "README.md", LAST_METRIC, "")


def claim_more_training(card):
    change(card / "README.md", "| agent steps | ", "| agent steps | 9")


def claim_twice(card):
    change(card / "README.md", "tags:", "model-index:\n- name: better\ntags:")


def drop_the_claims(card):
    text = (card / "README.md").read_text()
    (card / "README.md").write_text(re.sub("(?s)<!-- claims.*?<!-- end.*?-->", "", text))


def drop_the_last_claim(card):
    text = (card / "README.md").read_text()
    (card / "README.md").write_text(re.sub(r"\| version \(sha256.*\n", "", text))


def remove_the_card(card):
    (card / "README.md").unlink()


def spoil_the_card(card):
    (card / "README.md").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (raise_a_score, "points in"),
        (raise_the_mean, "follows from the games"),
        (leave_out_a_game, "game 0 has seed"),
        (raise_epsilon, "epsilon 0.5 is claimed, but protocol v5 plays with 0.01"),
        (swap_two_actions, "does not reproduce: at step"),
        (flip_a_weight, "is damaged: its sha256 is"),
        (put_another_agent_in, "but this checkpoint is version a29f843c878d"),
        (claim_a_higher_mean, 'it says "| mean | 9'),
        (claim_a_higher_mean_in_the_metadata, 'it says "value: 9'),
        (claim_one_more_result, 'it says "- type: wins", but "- type: mean_reward" follows'),
        (claim_one_more_result_at_the_end, 'it says "- type: wins", which does not follow'),
        (leave_out_the_end_of_the_metadata, '"name: human_normalized_score" is missing'),
        (claim_more_training, 'it says "| agent steps | 940,000 (160,000 frames) |"'),
        (claim_twice, "README.md has no claims in its metadata, or has them twice"),
        (drop_the_claims, "README.md has no claims in its tables"),
        (drop_the_last_claim, "follows from the games"),
        (remove_the_card, "README.md cannot be read: No such file"),
        (spoil_the_card, "README.md cannot be read: it is not text"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_altered_is_refused_and_named(command, card, tamper, told):
    tamper(card)
    code, _, err = command("watch", card, "--verify")
    assert code in (1, 2)
    assert told in err


def test_games_of_a_better_player_are_not_the_agents(command, card, agent):
    """The scores are true, the version is right, but another agent chose the actions."""
    other = AgentPlayer(DQNAgent.load(EARLY), name=NAME)
    other.version = agent.version
    evaluation = evaluate_agent(other, episodes=3, seed=5)
    document = {"evaluations": [evaluation.model_dump(mode="json")]}
    (card / "evaluation.json").write_text(json.dumps(document))
    code, out, err = command("watch", card, "--verify")
    assert code == 1
    assert "0 of 3 games reproduced" in out
    assert "was not played by this agent: at step 0 action" in err


def test_random_actions_must_be_those_of_the_seed(agent):
    """Both games reproduce; only in one of them did the seed decide the actions."""
    drawn = evaluate_agent(AgentPlayer(agent, protocol=ALL_RANDOM), episodes=1)
    chosen = evaluate_agent(AgentPlayer(agent, protocol=NEVER_RANDOM), episodes=1)
    check_own_game(agent, next(iter(recordings_of(drawn))))
    check_own_game(agent, next(iter(recordings_of(chosen))))
    relabelled = next(iter(recordings_of(chosen)))._replace(protocol=ALL_RANDOM)
    with pytest.raises(RecordingError, match="at step . action . was recorded, but the seed draws"):
        check_own_game(agent, relabelled)


def test_values_that_differ_by_rounding_only_are_equal(agent, monkeypatch):
    """Another processor rounds otherwise; the second best action of a near tie is its best one."""
    game = next(iter(recordings_of(evaluate_agent(agent, episodes=1))))
    exact = DQNAgent.load(LATE)

    def rounded(observations):
        values = agent.q_values(observations)
        rows, best = np.arange(len(values)), values.argmax(axis=1)
        values[rows, (best + 1) % 6] = values[rows, best] + np.float32(1e-4)
        return values

    monkeypatch.setattr(exact, "q_values", rounded)
    check_own_game(exact, game)


def test_the_step_at_which_another_agent_took_over_is_named(agent, monkeypatch):
    game = next(iter(recordings_of(evaluate_agent(agent, episodes=1))))
    monkeypatch.setattr("rlarcade.cards.own_games._ROWS", 8)
    other, calls = DQNAgent.load(LATE), []

    def values(observations):
        calls.append(len(observations))
        return agent.q_values(observations) * (-1 if len(calls) > 2 else 1)

    monkeypatch.setattr(other, "q_values", values)
    with pytest.raises(RecordingError, match="was not played by this agent: at step 16 action"):
        check_own_game(other, game)


def test_an_agent_whose_values_are_no_numbers_played_nothing(agent, monkeypatch):
    game = next(iter(recordings_of(evaluate_agent(agent, episodes=1))))
    broken = DQNAgent.load(LATE)
    monkeypatch.setattr(broken, "q_values", lambda seen: np.full((len(seen), 6), np.nan))
    with pytest.raises(RecordingError, match="was not played by this agent"):
        check_own_game(broken, game)


def test_a_card_opens_in_python(card, agent):
    opened = open_card(card)
    assert opened.agent.version == agent.version
    assert [game.episode.score for game in opened.recordings] == scores_of(card)
    assert opened.problems == []


# Games that were played before


def test_a_card_takes_an_evaluation_that_was_made_before(command, tmp_path):
    document = tmp_path / "e.json"
    assert command("evaluate", LATE, EARLY, "--episodes", 2, "--json", document)[0] == 0
    flags = [
        "--card",
        tmp_path / "card",
        "--evaluation",
        document,
        "--json",
        tmp_path / "told.json",
    ]
    code, out, err = command("export", LATE, *flags)
    assert (code, err) == (0, "")
    assert f"card: {tmp_path / 'card'} (5 files," in out
    (late, _) = json.loads(document.read_text())["evaluations"]
    assert scores_of(tmp_path / "card") == [game["score"] for game in late["episodes"]]
    assert command("watch", tmp_path / "card", "--verify")[0] == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["card"], told["games"]) == (str(tmp_path / "card"), 2)
    assert sorted(told["files"]) == FILES


def test_a_runs_outcome_is_an_evaluation_too(command, tmp_path, agent):
    evaluation = evaluate_agent(agent, episodes=1)
    outcome = {"steps": 40_000, "evaluation": evaluation.model_dump(mode="json")}
    (tmp_path / "result.json").write_text(json.dumps(outcome))
    flags = ["--card", tmp_path / "card", "--evaluation", tmp_path / "result.json"]
    assert command("export", LATE, *flags)[0] == 0
    assert command("watch", tmp_path / "card", "--verify")[0] == 0


def test_scores_under_another_protocol_are_shown_with_it(command, tmp_path):
    document = tmp_path / "e.json"
    flags = ["--episodes", 1, "--protocol", "nature", "--json", document]
    assert command("evaluate", LATE, *flags)[0] == 0
    assert command("export", LATE, "--card", tmp_path / "c", "--evaluation", document)[0] == 0
    assert "--seed 0 --protocol nature" in (tmp_path / "c" / "README.md").read_text()
    (entry,) = metadata_of(tmp_path / "c")["model-index"]
    assert entry["results"][0]["dataset"]["name"].endswith("protocol nature")
    assert command("watch", tmp_path / "c", "--verify")[0] == 0


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda e: e | {"version": "ab" * 32}, "has the games of version 'abababababab'"),
        (lambda e: e | {"game": "pong"}, "it has games of 'pong', but the agent plays space_inv"),
        (lambda e: e | {"mean": 9e9}, "cannot be believed: mean 9000000000.0 is claimed"),
        (lambda e: e | {"epsilon": 0.2}, "epsilon 0.2 is claimed, but protocol v5 plays with 0.01"),
        (
            lambda e: e | {"protocol": e["protocol"] | {"name": "m", "full_action_space": True}},
            "its protocol m has other actions than v5",
        ),
        (
            lambda e: (
                e | {"episodes": [one | {"score": one["score"] + 10} for one in e["episodes"]]}
            ),
            "cannot be believed",
        ),
        (
            lambda e: e | {"episodes": [one | {"trace": None} for one in e["episodes"]]},
            "were not kept",
        ),
        (
            lambda e: e | {"episodes": [one | {"ended": "failed"} for one in e["episodes"]]},
            "failed, and an agent's games do not",
        ),
    ],
)
def test_an_evaluation_of_something_else_is_refused(command, written, tmp_path, alter, told):
    (evaluation,) = json.loads((written / "evaluation.json").read_text())["evaluations"]
    document = tmp_path / "e.json"
    document.write_text(json.dumps({"evaluations": [alter(evaluation)]}))
    flags = ["--card", tmp_path / "card", "--evaluation", document]
    code, _, err = command("export", LATE, *flags)
    assert code == 2
    assert told in err
    assert not (tmp_path / "card").exists()


def test_a_document_must_hold_one_evaluation_of_the_checkpoint(command, written, tmp_path):
    (one,) = json.loads((written / "evaluation.json").read_text())["evaluations"]
    document = tmp_path / "e.json"
    document.write_text(json.dumps({"evaluations": [one, one]}))
    flags = ["--card", tmp_path / "card", "--evaluation", document]
    code, _, err = command("export", LATE, *flags)
    assert code == 2
    assert "has 2 evaluations of version 1a93b0ca1a48, and a card shows one" in err
    document.write_text((LATE / "manifest.json").read_text())
    assert command("export", LATE, *flags)[0] == 2


def test_a_match_is_no_evaluation(command, tmp_path):
    document = tmp_path / "match.json"
    flags = ["--max-pairs", 1, "--json", document, "--dir", tmp_path / "m"]
    code, *_ = command("compare", EARLY, LATE, *flags)
    assert code in (0, 3, 4)
    flags = ["--card", tmp_path / "card", "--evaluation", document]
    code, _, err = command("export", LATE, *flags)
    assert code == 2
    assert "holds no evaluation. Name a file that evaluate --json wrote" in err


# The command


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "nothing was asked for. Add --onnx FILE, --card DIR, or both."),
        (["--onnx", "x.onnx", "--games", 3], "--games is for a card. Add --card DIR"),
        (["--onnx", "x.onnx", "--seed", 3], "--seed is for a card"),
        (["--onnx", "x.onnx", "--evaluation", "e.json"], "--evaluation is for a card"),
        (["--card", "c", "--games", 0], "games must be at least 1, got 0"),
        (["--card", "c", "--seed", -1], "seed must be 0 to 4294967295, got -1"),
        (["--card", "c", "--games", 3, "--evaluation", "e.json"], "--games is for games that are"),
        (["--card", "c", "--evaluation", "nowhere.json"], "cannot read nowhere.json"),
        (["--card", "/proc/c"], "cannot be written"),
        (["--card", "."], "--card . has no name of its own. Name a new folder."),
        (["--card", "c" * 300], "cannot be written: File name too long"),
        (["--card", "something"], "cannot be written: Not a directory"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_words(command, tmp_path, monkeypatch, flags, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    code, out, err = command("export", LATE, *flags)
    assert (code, out if code == 2 and "nowhere" not in told else "") == (2, "")
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_a_folder_that_holds_something_is_never_replaced(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    code, _, err = command("export", LATE, "--card", tmp_path / "mine", "--games", 1)
    assert code == 2
    assert "exists already, and nothing in it is replaced. Name a new folder." in err
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert command("export", LATE, "--card", tmp_path / "link", "--games", 1)[0] == 2
    (tmp_path / "empty").mkdir()
    (tmp_path / "link-to-empty").symlink_to(tmp_path / "empty")
    assert command("export", LATE, "--card", tmp_path / "link-to-empty", "--games", 1)[0] == 2
    assert (tmp_path / "link-to-empty").is_symlink()
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_taken(command, tmp_path):
    (tmp_path / "card").mkdir()
    assert command("export", LATE, "--card", tmp_path / "card", "--games", 1)[0] == 0
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == FILES


def test_a_full_disk_leaves_nothing(command, tmp_path, monkeypatch):
    def full(path, files):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlarcade.cards.folder.write_folder", full)
    code, _, err = command("export", LATE, "--card", tmp_path / "card", "--games", 1)
    assert code == 2
    assert "cannot be written: No space left on device. Choose another folder." in err
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_changes_meanwhile_is_not_copied(tmp_path, agent):
    from rlarcade.checkpoint import load_checkpoint
    from rlarcade.errors import CheckpointError

    checkpoint = Path(shutil.copytree(LATE, tmp_path / "late"))
    loaded = load_checkpoint(checkpoint)
    change(checkpoint / "manifest.json", '"seed": 1', '"seed": 2')
    evaluation = evaluate_agent(agent, episodes=1)
    with pytest.raises(CheckpointError, match="was changed just now"):
        cards.write_card(tmp_path / "card", loaded, agent, evaluation)
    assert not (tmp_path / "card").exists()


def test_a_manifests_texts_are_no_markdown(tmp_path, agent):
    from rlarcade.cards.model_card import claims_problems, model_card
    from rlarcade.checkpoint import load_checkpoint

    manifest = load_checkpoint(LATE).manifest.model_copy(
        update={
            "preset": "a|b\n---\n<script>alert(1)</script>",
            "libraries": {"torch": "2 | <b>", "ale-py": "x" * 500},
        }
    )
    evaluation = evaluate_agent(agent, episodes=1)
    text = model_card(manifest, evaluation, None)
    assert "<script" not in text
    assert "<b>" not in text
    assert max(map(len, text.splitlines())) < 500
    header = yaml.safe_load(text.split("---\n", 2)[1])
    assert header["model-index"][0]["name"] == "SpaceInvaders-a-b-script-alert-1-script-40000"
    assert claims_problems(text, manifest, evaluation) == []


@pytest.mark.slow
def test_a_card_of_a_real_game_is_confirmed_by_the_commands(run_verb, tmp_path):
    done = run_verb("export", LATE, "--card", tmp_path / "card", "--games", 2)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert (tmp_path / "card" / "clip.gif").stat().st_size < 3_000_000
    done = run_verb("watch", tmp_path / "card", "--verify")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 games reproduced to the point" in done.stdout
    for line in [*told, *done.stderr.splitlines()]:  # only how far it is, if it took that long
        assert re.match(r"(playing [\w-]+|verifying): +\d/2 games ", line)


@pytest.mark.parametrize(("epsilon", "shown"), [(0.01, "1%"), (0.005, "0.5%"), (0.0, "0%")])
def test_a_small_share_of_random_actions_is_not_shown_as_none(agent, epsilon, shown):
    changed = {"name": "mine", "evaluation_epsilon": epsilon, "frame_cap": 40}
    rules = get_protocol("v5").model_copy(update=changed)
    evaluation = evaluate_agent(AgentPlayer(agent, protocol=rules), episodes=1)
    text = model_card(load_checkpoint(LATE).manifest, evaluation, None)
    assert f", {shown} random actions, " in text
