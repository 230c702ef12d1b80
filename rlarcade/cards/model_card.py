"""The text of a model card, README.md: metadata, what the agent is, its scores, how to play it.

The metadata has the form that the Hugging Face Hub documents
(https://github.com/huggingface/hub-docs/blob/main/modelcard.md). The metric `mean_reward` is
written as "mean +/- standard deviation", as the cards of Stable-Baselines3 have it. So tools that
compare such cards read this one, too.

The claims of a card are in two blocks: `model-index` in the metadata, and the tables between two
comments. They follow from the manifest and the games alone, so they can be made again and compared.
Everything else in a card may be edited.
"""

import re
from collections.abc import Sequence
from statistics import pstdev

from rlarcade.checkpoint import MANIFEST, WEIGHTS, Manifest
from rlarcade.evaluation.documents import Evaluation
from rlarcade.evaluation.summaries import endings, interval_text
from rlarcade.games.names import display_name, resolve_game
from rlarcade.games.protocols import Protocol
from rlarcade.games.scores import published_scores
from rlarcade.text import printable

README = "README.md"
EVALUATION = "evaluation.json"
CLIP = "clip.gif"

_BEGIN = "<!-- claims, checked by rlarcade watch --verify -->"
_END = "<!-- end of the claims -->"
_INDEX = "model-index:"
_LONGEST = 80  # characters of a text from a manifest


def card_name(manifest: Manifest) -> str:
    """Returns the name of an agent in its card: game, preset and agent steps."""
    preset = re.sub(r"[^A-Za-z0-9._]+", "-", manifest.preset or "agent")[:40].strip("-")
    return f"{_game(manifest)}-{preset or 'agent'}-{manifest.counters.steps}"


def model_card(manifest: Manifest, evaluation: Evaluation, clip: str | None) -> str:
    """Returns the text of README.md.

    Args:
        manifest: of the checkpoint.
        evaluation: the games of the card.
        clip: caption of the clip; None: there is no clip.
    """
    name, game = card_name(manifest), _game(manifest)
    lines = [
        "---",
        *_metadata(manifest, evaluation),
        "---",
        "",
        f"# {name}",
        "",
        f"A deep Q-network that plays the Atari 2600 game {game} from the screen. It was trained "
        "with rlarcade.",
        "",
        *([f"![A game of the agent]({CLIP})", "", clip, ""] if clip is not None else []),
        *_claims(manifest, evaluation),
        "",
        *_how_to_play(manifest, evaluation),
        *_what_is_here(clip is not None),
        *_limits(evaluation.protocol),
    ]
    return "\n".join(lines)


def claims_problems(text: str, manifest: Manifest, evaluation: Evaluation) -> list[str]:
    """Returns how the claims in the text of a README.md differ from the manifest and the games."""
    problems = []
    for what, found, wanted in (
        ("metadata", _index_in(text), _model_index(manifest, evaluation)),
        ("tables", _claims_in(text), _claims(manifest, evaluation)),
    ):
        if found is None:
            problems.append(f"{README} has no claims in its {what}, or has them twice")
        elif (difference := _first_difference(found, wanted)) is not None:
            problems.append(f"{README}: {difference}")
    return problems


# The metadata


def _metadata(manifest: Manifest, evaluation: Evaluation) -> list[str]:
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "atari", "dqn"]
    return [
        "library_name: rlarcade",
        "pipeline_tag: reinforcement-learning",
        "tags:",
        *(f"- {tag}" for tag in (*tags, _environment(manifest))),
        *_model_index(manifest, evaluation),
    ]


def _model_index(manifest: Manifest, evaluation: Evaluation) -> list[str]:
    """Returns the results as the lines of YAML's `model-index`.

    Their order and their numbers are those that huggingface_hub writes. So a card can be edited
    with it.
    """
    metrics = []
    for kind, value in _metrics(evaluation):
        metrics += [f"    - type: {kind}", f"      value: {value}", f"      name: {kind}"]
    return [
        _INDEX,
        f"- name: {card_name(manifest)}",
        "  results:",
        "  - task:",
        "      type: reinforcement-learning",
        "      name: reinforcement-learning",
        "    dataset:",
        f"      name: {_environment(manifest)}, protocol {evaluation.protocol.name}",
        f"      type: {_environment(manifest)}",
        "    metrics:",
        *metrics,
    ]


def _metrics(evaluation: Evaluation) -> list[tuple[str, str]]:
    scores = [episode.score for episode in evaluation.episodes]
    found = [
        ("mean_reward", f"{evaluation.mean:.2f} +/- {pstdev(scores):.2f}"),
        ("median_reward", repr(round(evaluation.median, 2))),
        ("iqm_reward", repr(round(evaluation.iqm, 2))),
    ]
    if evaluation.human_normalized is not None:
        found.append(("human_normalized_score", repr(round(evaluation.human_normalized, 4))))
    return found


def _game(manifest: Manifest) -> str:
    return display_name(resolve_game(manifest.game))


def _environment(manifest: Manifest) -> str:
    return f"ALE/{_game(manifest)}-v5"


# The text


def _claims(manifest: Manifest, evaluation: Evaluation) -> list[str]:
    return [
        _BEGIN,
        "",
        "## Scores",
        "",
        *_table(_score_rows(evaluation)),
        "",
        "## Training",
        "",
        *_table(_training_rows(manifest)),
        "",
        _END,
    ]


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _score_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    scores = [episode.score for episode in evaluation.episodes]
    published = published_scores(evaluation.game)
    normalised = evaluation.human_normalized
    rows = [
        ("mean", f"{evaluation.mean:,.1f} ± {pstdev(scores):,.1f} (standard deviation)"),
        ("median", f"{evaluation.median:,.1f}"),
        ("interquartile mean", f"{evaluation.iqm:,.1f} {interval_text(evaluation.iqm_interval)}"),
        ("lowest, highest", f"{min(scores):,.0f}, {max(scores):,.0f}"),
        ("games", f"{len(scores):,} whole games, raw scores ({endings(evaluation)})"),
        ("protocol", _rules(evaluation.protocol)),
        ("seed of the games", f"{evaluation.seed}"),
    ]
    if published is not None and normalised is not None:
        rows.append(("random player, human", f"{published.random:,.1f}, {published.human:,.1f}"))
        rows.append(("human-normalised", f"{normalised:.1%}"))
    return rows


def _rules(protocol: Protocol) -> str:
    actions = "all 18 actions" if protocol.full_action_space else "the game's own actions"
    starts = f", up to {protocol.max_noops} no-ops at the start" if protocol.max_noops else ""
    random = f"{100 * protocol.evaluation_epsilon:g}% random actions"
    return (
        f"{protocol.name}: sticky actions {protocol.sticky:g}, {actions}{starts}, {random}, "
        f"at most {protocol.frame_cap:,} frames"
    )


def _training_rows(manifest: Manifest) -> list[tuple[str, str]]:
    counters, network = manifest.counters, manifest.network
    torso, head = network.get("torso", "nature"), network.get("head", "expected")
    versions = {name: manifest.libraries.get(name, "unknown") for name in ("torch", "ale-py")}
    return [
        ("agent steps", f"{counters.steps:,} ({counters.frames:,} frames)"),
        ("gradient steps", f"{counters.updates:,}"),
        ("preset", _plain(manifest.preset)),
        ("seed", _plain(manifest.seed)),
        ("torso, head", _plain(f"{torso}, {head}")),
        ("libraries", ", ".join(f"{name} {_plain(one)}" for name, one in versions.items())),
        ("version (sha256 of the weights)", f"`{_plain(manifest.weights_sha256)}`"),
    ]


def _how_to_play(manifest: Manifest, evaluation: Evaluation) -> list[str]:
    asked = f"--episodes {len(evaluation.episodes)} --seed {evaluation.seed}"
    if evaluation.protocol != manifest.protocol:
        asked += f" --protocol {evaluation.protocol.name}"
    return [
        "## How to play it",
        "",
        "Install rlarcade, and run these commands in this folder.",
        "",
        "```bash",
        "python -m rlarcade.watch . --verify  # are the claims true?",
        "python -m rlarcade.watch . --episode 0 --video game.mp4  # one of its games as a video",
        f"python -m rlarcade.evaluate . {asked}  # the same games, played again",
        "```",
        "",
        "In Python:",
        "",
        "```python",
        "from rlarcade import DQNAgent, play_steps",
        "",
        'agent = DQNAgent.load(".")',
        "for step in play_steps(agent):",
        "    if step.episode is not None:",
        "        print(step.episode.score)",
        "```",
        "",
    ]


def _what_is_here(has_clip: bool) -> list[str]:
    return [
        "## What is in this folder",
        "",
        f"- `{WEIGHTS}`, `{MANIFEST}`: the agent. Loading it runs no code of it.",
        f"- `{EVALUATION}`: the games behind the scores, with every action.",
        *([f"- `{CLIP}`: a part of the game with the median score."] if has_clip else []),
        "",
        "`watch . --verify` plays every game again from its seed and its actions. It checks every "
        "point, that this agent chooses those actions, and that the tables and the metadata of "
        "this card follow from the games. Nobody can check how the agent was trained: the table "
        "says what its manifest says.",
        "",
    ]


def _limits(protocol: Protocol) -> list[str]:
    return [
        "## Limits",
        "",
        "The agent plays this one game. Its scores hold for the protocol above; under another "
        f"protocol than {protocol.name}, or with clipped rewards or lives as episodes, they are "
        "other scores.",
        "",
    ]


def _plain(value: object) -> str:
    """Returns a value from a manifest as text that is no Markdown."""
    text = "unknown" if value is None else str(value)
    return re.sub(r"[^A-Za-z0-9 .,_+:-]", "?", text[:_LONGEST])


# Reading the claims


def _index_in(text: str) -> list[str] | None:
    """Returns the lines of `model-index` in the metadata; None if there is not exactly one."""
    lines = text.splitlines()
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return None
    header = lines[1 : lines.index("---", 1)]
    if sum(line.startswith(_INDEX[:-1]) for line in header) != 1 or _INDEX not in header:
        return None
    first = header.index(_INDEX)
    rest = header[first + 1 :]
    length = next((i for i, line in enumerate(rest) if line[:1] not in (" ", "-")), len(rest))
    return header[first : first + 1 + length]


def _claims_in(text: str) -> list[str] | None:
    """Returns the lines between the two comments, with them; None if they are not there once."""
    lines = text.splitlines()
    if (lines.count(_BEGIN), lines.count(_END)) != (1, 1):
        return None
    first, last = lines.index(_BEGIN), lines.index(_END)
    return lines[first : last + 1] if first < last else None


def _first_difference(found: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Describes the first difference.

    Indents and quotes do not count: an editor may change them.
    """
    here, there = (
        [re.sub("[\"']", "", line).strip() for line in lines if line.strip()]
        for lines in (found, wanted)
    )
    for one, other in zip(here, there, strict=False):
        if one != other:
            return f'it says "{_shown(one)}", but "{_shown(other)}" follows from the games'
    if len(here) > len(there):
        return f'it says "{_shown(here[len(there)])}", which does not follow from the games'
    if len(here) < len(there):
        return f'"{_shown(there[len(here)])}" is missing'
    return None


def _shown(line: str) -> str:
    return printable(line, _LONGEST)
