"""Draws recorded games as pictures and videos (60 frames a second), with score and values."""

import io
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ConfigError, RecordingError, RlarcadeError
from rlarcade.files import unfinished, write_file
from rlarcade.games.names import display_name
from rlarcade.games.playback import FRAMES_PER_SECOND, Frame, play_back
from rlarcade.games.single import GameEnv
from rlarcade.games.vector import GameVectorEnv
from rlarcade.outputs import check_output
from rlarcade.playing.players import Agent
from rlarcade.playing.recordings import Recording
from rlarcade.playing.references import load_named

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

    from rlarcade.learning.policy import DQNAgent

_SCALE = 2
_SCREEN = (160 * _SCALE, 210 * _SCALE)
_PANEL = 200  # pixels beside the screen
SIZE = (_SCREEN[0] + _PANEL, _SCREEN[1])
"""Width and height of pictures, in pixels."""

_INK, _FAINT, _PAPER = (235, 235, 235), (140, 140, 140), (24, 24, 27)
_CHOSEN, _BAR = (86, 180, 233), (90, 90, 96)
_LOOKED_AT = (255, 60, 60)

Drawn = Callable[[int, int], None]
"""Called with (number of drawn agent steps, number of all agent steps)."""


class _Beside(NamedTuple):
    """Text and values beside the screen."""

    title: str
    step: int
    score: float
    action: int | None
    names: tuple[str, ...]
    values: tuple[float, ...] | None


def values_of(agent: Agent, recording: Recording) -> NDArray[np.float32]:
    """Returns an agent's action values at each step of a game, float32 (T, A)."""
    env = GameEnv(recording.game, protocol=recording.protocol)
    observation, _ = env.reset(seed=recording.episode.seed)
    rows = []
    for action, _ in recording.episode.trace.steps if recording.episode.trace else []:
        rows.append(agent.q_values(observation[None])[0])
        observation, *_ = env.step(action)
    return np.array(rows)


def saliency_of(agent: "DQNAgent", recording: Recording) -> NDArray[np.uint8]:
    """Returns where an agent looked at each step of a game, uint8 (T, 84, 84).

    The saliency of the step's action, summed over the four frames; 255 is the largest of the step.
    """
    from rlarcade.learning.saliency import saliency  # here, because it imports torch

    env = GameEnv(recording.game, protocol=recording.protocol)
    observation, _ = env.reset(seed=recording.episode.seed)
    maps = []
    for action, _ in recording.episode.trace.steps if recording.episode.trace else []:
        pixels = saliency(agent, observation[None], action)[0].sum(axis=0)
        maps.append((pixels / max(float(pixels.max()), 1e-30) * 255).astype(np.uint8))
        observation, *_ = env.step(action)
    return np.array(maps)


def agent_that_played(recording: Recording, registry: Path | None = None) -> "DQNAgent | None":
    """Loads the agent that played; None if it is not found by its name, or is another version.

    Args:
        recording: the game.
        registry: folder of the registry, if the player is a version; None: `checkpoints/registry`.
    """
    from rlarcade.learning.policy import DQNAgent  # here, because it imports torch

    with suppress(RlarcadeError, OSError, ValueError):  # a name need not be a path
        agent = DQNAgent.load(load_named(recording.player, registry))
        kind = agent.version, agent.game, agent.protocol.full_action_space
        shown = recording.version, recording.game, recording.protocol.full_action_space
        return agent if kind == shown else None
    return None


def values_of_its_player(
    recording: Recording, registry: Path | None = None
) -> NDArray[np.float32] | None:
    """Action values (T, A) of the agent that played, or None.

    None: the agent is not found, see `agent_that_played`, or has values that are not finite.
    """
    with suppress(RlarcadeError, OSError, ValueError):
        agent = agent_that_played(recording, registry)
        values = None if agent is None else values_of(agent, recording)
        return values if values is not None and np.isfinite(values).all() else None
    return None


def pictures(
    recording: Recording,
    values: NDArray[np.float32] | None = None,
    saliency: NDArray[np.uint8] | None = None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields (agent step, picture) of every frame. The step is -1 before the first action.

    Args:
        recording: the game.
        values: float32 (T, A), drawn as bars. `values_of` computes them.
        saliency: uint8 (T, 84, 84), drawn in red over the screen. `saliency_of` computes it.

    Raises:
        RecordingError: the game does not reproduce.
    """
    for frame, beside in _told_frames(recording, values):
        yield frame.step, _draw(_marked(frame, saliency), beside)


def _told_frames(
    recording: Recording, values: NDArray[np.float32] | None
) -> Iterator[tuple[Frame, "_Beside"]]:
    """Yields every frame with the text and values to draw beside it."""
    trace = recording.episode.trace
    steps = trace.steps if trace else []
    names = GameVectorEnv(recording.game, 1, protocol=recording.protocol).action_names
    title = f"{display_name(recording.game)} ({recording.protocol.name})"
    score, paid, now = 0.0, 0.0, -1
    actions = [action for action, _ in steps]
    game = play_back(recording.game, recording.protocol, recording.episode.seed, actions)
    for frame in game:
        if frame.step != now:
            _check_paid(recording, steps, now, paid)
            now, paid = frame.step, 0.0
        paid += frame.reward
        score += frame.reward
        yield (
            frame,
            _Beside(
                title=title,
                step=max(now, 0),
                score=score,
                action=actions[now] if now >= 0 else None,
                names=names,
                values=tuple(values[max(now, 0)].tolist()) if values is not None else None,
            ),
        )
    _check_paid(recording, steps, now, paid)
    if now + 1 < len(steps):
        raise RecordingError(
            f"{recording.player}'s game with seed {recording.episode.seed} does not reproduce: it "
            f"ends after step {now}, but {len(steps)} steps were recorded."
        )


def _check_paid(recording: Recording, steps: list[tuple[int, int]], step: int, paid: float) -> None:
    if step >= 0 and steps[step][1] != paid:
        raise RecordingError(
            f"{recording.player}'s game with seed {recording.episode.seed} does not reproduce: at "
            f"step {step}, {steps[step][1]:g} points were recorded, {paid:g} are paid."
        )


def write_video(
    path: Path,
    recording: Recording,
    values: NDArray[np.float32] | None = None,
    on_step: Drawn | None = None,
    saliency: NDArray[np.uint8] | None = None,
) -> None:
    """Writes a recorded game as an MP4 video (H.264) of 60 frames a second.

    On failure no incomplete file is left.

    Args:
        path: file that ends in `.mp4`.
        recording: the game.
        values: as for `pictures`.
        on_step: called after each frame.
        saliency: as for `pictures`.

    Raises:
        RecordingError: the file cannot be written, or the game does not reproduce.
    """
    import imageio_ffmpeg

    _check_path(path, ".mp4")
    temporary = path.with_name(f"{unfinished(path).name}.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # fails with a short message here; ffmpeg's would be a page long
        with closing(
            imageio_ffmpeg.write_frames(
                str(temporary),
                SIZE,
                fps=FRAMES_PER_SECOND,
                codec="libx264",
                macro_block_size=2,
                ffmpeg_log_level="error",
                # A video player can start before it has the whole file.
                output_params=["-movflags", "+faststart"],
            )
        ) as video:
            video.send(None)
            for step, picture in pictures(recording, values, saliency):
                video.send(picture.tobytes())
                if on_step is not None:
                    on_step(step + 1, recording.episode.steps)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    except RuntimeError as error:  # imageio-ffmpeg did not find ffmpeg
        raise RecordingError(
            f"{path} cannot be written: {error}. Use --picture instead."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_picture(
    path: Path,
    recording: Recording,
    values: NDArray[np.float32] | None = None,
    saliency: NDArray[np.uint8] | None = None,
) -> None:
    """Writes six moments of a recorded game, evenly spread, as one PNG.

    Raises:
        RecordingError: the file cannot be written, or the game does not reproduce.
    """
    _check_path(path, ".png")
    png = picture_of(recording, values, saliency)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, png)
    except OSError as error:
        raise _unwritable(path, error) from error


def picture_of(
    recording: Recording,
    values: NDArray[np.float32] | None = None,
    saliency: NDArray[np.uint8] | None = None,
) -> bytes:
    """Returns six moments of a recorded game, evenly spread, as one PNG.

    Raises:
        RecordingError: the game does not reproduce.
    """
    from PIL import Image

    columns, rows = 3, 2
    last = len(recording.episode.trace.actions) - 1 if recording.episode.trace else -1
    wanted = [round(last * part / (columns * rows - 1)) for part in range(columns * rows)]
    # The dict keeps the last of the four frames of each step.
    found = {
        frame.step: (frame, beside)
        for frame, beside in _told_frames(recording, values)
        if frame.step in wanted
    }
    sheet = np.zeros((rows * SIZE[1], columns * SIZE[0], 3), dtype=np.uint8)
    for place, step in enumerate(wanted):
        top, left = place // columns * SIZE[1], place % columns * SIZE[0]
        if step in found:
            frame, beside = found[step]
            screen = _marked(frame, saliency)
            sheet[top : top + SIZE[1], left : left + SIZE[0]] = _draw(screen, beside)
    png = io.BytesIO()
    Image.fromarray(sheet).save(png, "PNG", optimize=True)
    return png.getvalue()


def _check_path(path: Path, suffix: str) -> None:
    if path.suffix.lower() != suffix:
        raise RecordingError(f"{path} must end in {suffix}: no other format is supported.")
    try:
        check_output(path, "file")
    except ConfigError as error:
        raise RecordingError(str(error)) from error


def _unwritable(path: Path, error: OSError) -> RecordingError:
    return RecordingError(
        f"{path} cannot be written: {error.strerror or error}. Choose another file."
    )


def _marked(frame: Frame, saliency: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Returns a frame's screen, uint8 (210, 160, 3), with what the agent looked at in red."""
    if saliency is None or frame.step < 0:
        return frame.picture
    from PIL import Image

    height, width, _ = frame.picture.shape
    map_of_screen = Image.fromarray(saliency[frame.step]).resize((width, height))
    # squared: single gradients are noisy, and the few largest say most
    share = (np.asarray(map_of_screen, dtype=np.float32)[..., None] / 255) ** 2
    mixed = frame.picture * (1 - share) + np.array(_LOOKED_AT, dtype=np.float32) * share
    return mixed.astype(np.uint8)


def _draw(screen: NDArray[np.uint8], beside: _Beside) -> NDArray[np.uint8]:
    """One picture: the enlarged screen with the panel beside it, uint8 (420, 520, 3)."""
    picture = np.empty((SIZE[1], SIZE[0], 3), dtype=np.uint8)
    picture[:, : _SCREEN[0]] = screen.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)
    picture[:, _SCREEN[0] :] = _panel(beside)
    return picture


@lru_cache(maxsize=1)  # the four frames of a step mostly share one panel
def _panel(beside: _Beside) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_PANEL, SIZE[1]), _PAPER)
    draw, small, large = ImageDraw.Draw(image), _font(12), _font(28)
    draw.text((12, 10), beside.title, fill=_INK, font=small)
    draw.text((12, 30), f"{beside.score:,.0f}", fill=_INK, font=large)
    draw.text((12, 64), f"step {beside.step:,}", fill=_FAINT, font=small)
    if beside.values is not None:
        _draw_values(draw, beside, small)
    elif beside.action is not None:
        draw.text((12, 92), beside.names[beside.action], fill=_CHOSEN, font=small)
    return np.asarray(image)


@cache
def _font(size: int) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _draw_values(
    draw: "ImageDraw.ImageDraw", beside: _Beside, font: "ImageFont.FreeTypeFont"
) -> None:
    """Draws a bar for each action's value, scaled from the lowest to the highest at this step."""
    assert beside.values is not None
    low, high = min(beside.values), max(beside.values)
    height = min(22, 310 // len(beside.names))
    for row, (name, value) in enumerate(zip(beside.names, beside.values, strict=True)):
        top = 92 + row * height
        share = (value - low) / (high - low) if high > low else 1.0
        chosen = row == beside.action
        draw.rectangle(
            (12, top, 12 + 4 + share * 90, top + height - 6), _CHOSEN if chosen else _BAR
        )
        draw.text((16, top - 1), name, fill=_PAPER if chosen else _INK, font=font)
        draw.text((128, top - 1), f"{value:.2f}", fill=_INK if chosen else _FAINT, font=font)
