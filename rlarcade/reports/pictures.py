"""Draws recorded games as pictures and videos (60 frames a second), with score and values."""

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ConfigError, RecordingError, RlarcadeError
from rlarcade.files import unfinished, write_file
from rlarcade.games.names import display_name
from rlarcade.games.playback import FRAMES_PER_SECOND, Frame, play_back
from rlarcade.games.protocols import FRAMESKIP
from rlarcade.games.single import GameEnv
from rlarcade.games.vector import GameVectorEnv
from rlarcade.outputs import check_output
from rlarcade.playing.players import Agent, SearchTree
from rlarcade.playing.recordings import Recording
from rlarcade.playing.references import load_named
from rlarcade.reports.trees import Box, Colors, draw_tree

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    from rlarcade.learning.policy import DQNAgent

_SCALE = 3
_SCREEN = (160 * _SCALE, 210 * _SCALE)
_PANEL = 360  # pixels beside the screen
SIZE = (_SCREEN[0] + _PANEL, _SCREEN[1])
"""Width and height of pictures, in pixels."""

# The dark colours of the reports (templates/report.css), which the colour-blind can tell apart.
_INK, _SOFT, _FAINT, _PAPER = (230, 233, 238), (163, 173, 187), (74, 84, 98), (18, 22, 28)
_CHOSEN, _EXPLORED, _POINTS = (88, 174, 240), (242, 138, 75), (242, 189, 85)
_LOOKED_AT = (255, 60, 60)
_LEFT, _RIGHT = 16, _PANEL - 16  # edges of what is drawn in the panel
_BARS = (126, 270)  # where the bars of values begin and end
_BARS_TOP, _BARS_HEIGHT = 142, 306
_CURVE = (496, 596)  # top and bottom of the value curve
_CURVE_MARGIN = 4  # pixels above and below the curve that its dots may cover
_CURVE_TOP = _CURVE[0] - _CURVE_MARGIN
_CLIP_SECONDS = 8  # of a clip in a report
_EQUAL = 1e-6  # values that differ by less are equally good

Trees = Sequence[SearchTree | None]
"""The tree that a player grew at each step of a game."""
Drawn = Callable[[int, int], None]
"""Called with (number of drawn agent steps, number of all agent steps)."""


class _Told(NamedTuple):
    """What is the same in all pictures of a game."""

    title: str
    names: tuple[str, ...]
    values: NDArray[np.float32] | None
    """Float32 (T, A), T >= 1."""
    rewards: NDArray[np.float64]
    """Float64 (T,): raw points of each step."""
    trees: Trees | None


class _Beside(NamedTuple):
    """What changes from picture to picture."""

    step: int
    score: float
    action: int | None


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


def agent_that_played(
    recording: Recording, registry: str | Path | None = None
) -> "DQNAgent | None":
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
    recording: Recording, registry: str | Path | None = None
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
    steps: range | None = None,
    trees: Trees | None = None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields (agent step, picture) of every frame. The step is -1 before the first action.

    Args:
        recording: the game.
        values: float32 (T, A), drawn as bars. `values_of` computes them.
        saliency: uint8 (T, 84, 84), drawn in red over the screen. `saliency_of` computes it.
        steps: draws only the frames of these steps. The whole game is checked all the same.
        trees: drawn in place of the curve of the values.

    Raises:
        RecordingError: the game does not reproduce.
    """
    panel = _Panel(_told(recording, values, trees))
    for frame, beside in _told_frames(recording):
        if steps is None or frame.step in steps:
            yield frame.step, _draw(_marked(frame, saliency), panel.drawn(beside))


def _told(
    recording: Recording, values: NDArray[np.float32] | None, trees: Trees | None = None
) -> _Told:
    trace = recording.episode.trace
    rewards = [reward for _, reward in trace.steps] if trace else []
    return _Told(
        title=f"{display_name(recording.game)} ({recording.protocol.name})",
        names=GameVectorEnv(recording.game, 1, protocol=recording.protocol).action_names,
        values=values if values is not None and values.size else None,
        rewards=np.array(rewards, dtype=np.float64),
        trees=trees,
    )


def _told_frames(recording: Recording) -> Iterator[tuple[Frame, _Beside]]:
    """Yields every frame with the step, the score and the action at that moment."""
    trace = recording.episode.trace
    steps = trace.steps if trace else []
    score, paid, now = 0.0, 0.0, -1
    actions = [action for action, _ in steps]
    game = play_back(recording.game, recording.protocol, recording.episode.seed, actions)
    for frame in game:
        if frame.step != now:
            _check_paid(recording, steps, now, paid)
            now, paid = frame.step, 0.0
        paid += frame.reward
        score += frame.reward
        yield frame, _Beside(max(now, 0), score, actions[now] if now >= 0 else None)
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
    trees: Trees | None = None,
) -> None:
    """Writes a recorded game as an MP4 video (H.264) of 60 frames a second.

    On failure no incomplete file is left.

    Args:
        path: file that ends in `.mp4`.
        recording: the game.
        values: as for `pictures`.
        on_step: called after each frame.
        saliency: as for `pictures`.
        trees: as for `pictures`.

    Raises:
        RecordingError: the file cannot be written, or the game does not reproduce.
    """
    _check_path(path, ".mp4")
    temporary = path.with_name(f"{unfinished(path).name}.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # fails with a short message here; ffmpeg's would be a page long
        with _video(temporary) as add:
            for step, picture in pictures(recording, values, saliency, trees=trees):
                add(picture)
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


def clip_of(recording: Recording, values: NDArray[np.float32] | None = None) -> bytes | None:
    """Returns the eight seconds of a game in which most points were made, as an MP4 video.

    Args:
        recording: the game.
        values: as for `pictures`.

    Returns:
        The file, some hundreds of kilobytes; None if ffmpeg is not found or cannot write.

    Raises:
        RecordingError: the game does not reproduce.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        steps = liveliest(recording, _CLIP_SECONDS)
        try:
            with _video(path) as add:
                for _, picture in pictures(recording, values, steps=steps):
                    add(picture)
            return path.read_bytes()
        except (OSError, RuntimeError):
            return None


def step_pictures(
    recording: Recording, values: NDArray[np.float32] | None, seconds: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yields (agent step, picture) of the seconds in which most points were made.

    There is one picture for each step, that of its last frame: 15 a second, which is enough for a
    moving picture that is smaller than a video.

    Args:
        recording: the game.
        values: as for `pictures`.
        seconds: how long the part is. A shorter game is shown whole.

    Raises:
        RecordingError: the game does not reproduce.
    """
    drawn = pictures(recording, values, steps=liveliest(recording, seconds))
    for step, frames in groupby(drawn, key=itemgetter(0)):
        *_, (_, picture) = frames
        yield step, picture


def liveliest(recording: Recording, seconds: int) -> range:
    """Returns the steps of the seconds in which most points were made; the first of several."""
    trace = recording.episode.trace
    points = np.array([reward for _, reward in trace.steps] if trace else [], dtype=np.float64)
    length = min(seconds * FRAMES_PER_SECOND // FRAMESKIP, len(points))
    sums = np.convolve(points, np.ones(length), "valid") if length else np.zeros(1)
    first = int(sums.argmax())
    return range(first, first + length)


@contextmanager
def _video(path: Path) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Yields a function that adds a picture to a video (H.264, 60 pictures a second).

    Raises:
        OSError: the file cannot be written.
        RuntimeError: ffmpeg is not found.
    """
    import imageio_ffmpeg

    with closing(
        imageio_ffmpeg.write_frames(
            str(path),
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
        yield lambda picture: video.send(picture.tobytes())


def write_picture(
    path: Path,
    recording: Recording,
    values: NDArray[np.float32] | None = None,
    saliency: NDArray[np.uint8] | None = None,
    trees: Trees | None = None,
) -> None:
    """Writes six moments of a recorded game, evenly spread, as one PNG.

    Raises:
        RecordingError: the file cannot be written, or the game does not reproduce.
    """
    _check_path(path, ".png")
    png = picture_of(recording, values, saliency, trees)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, png)
    except OSError as error:
        raise _unwritable(path, error) from error


def picture_of(
    recording: Recording,
    values: NDArray[np.float32] | None = None,
    saliency: NDArray[np.uint8] | None = None,
    trees: Trees | None = None,
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
        for frame, beside in _told_frames(recording)
        if frame.step in wanted
    }
    panel = _Panel(_told(recording, values, trees))
    sheet = np.zeros((rows * SIZE[1], columns * SIZE[0], 3), dtype=np.uint8)
    for place, step in enumerate(wanted):
        top, left = place // columns * SIZE[1], place % columns * SIZE[0]
        if step in found:
            frame, beside = found[step]
            screen = _marked(frame, saliency)
            sheet[top : top + SIZE[1], left : left + SIZE[0]] = _draw(screen, panel.drawn(beside))
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


def _draw(screen: NDArray[np.uint8], panel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One picture: the enlarged screen with the panel beside it, uint8 (630, 840, 3)."""
    picture = np.empty((SIZE[1], SIZE[0], 3), dtype=np.uint8)
    picture[:, : _SCREEN[0]] = screen.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)
    picture[:, _SCREEN[0] :] = panel
    return picture


class _Panel:
    """Draws what is told beside the screen: score, action, values, and their curve.

    All pictures of a game have one scale: a bar that is twice as long is a value twice as large.
    """

    def __init__(self, told: _Told) -> None:
        self._told = told
        self._beside: _Beside | None = None
        self._image = np.empty(0, dtype=np.uint8)
        if told.values is not None:
            self._low = min(0.0, float(told.values.min()))
            self._high = max(self._low + 1e-9, 0.0, float(told.values.max()))
            self._curve = _Curve(told.values.max(axis=1), told.rewards)

    def drawn(self, beside: _Beside) -> NDArray[np.uint8]:
        """The panel, uint8 (630, 360, 3). The four frames of a step mostly share one.

        The steps of a game are drawn in their order; some may be left out.
        """
        if beside != self._beside:
            self._beside, self._image = beside, self._draw(beside)
        return self._image

    def _draw(self, beside: _Beside) -> NDArray[np.uint8]:
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (_PANEL, SIZE[1]), _PAPER)
        draw = ImageDraw.Draw(image)
        draw.text((_LEFT, 14), self._told.title, fill=_INK, font=_font(17))
        draw.text((_LEFT, 38), f"{beside.score:,.0f}", fill=_INK, font=_font(44))
        draw.text((_LEFT, 98), f"step {beside.step:,}", fill=_SOFT, font=_font(17))
        if self._told.values is not None:
            self._draw_values(draw, self._told.values[beside.step], beside.action)
            tree = self._told.trees[beside.step] if self._told.trees else None
            if tree is None:
                self._curve.draw(image, beside.step)
            else:
                _draw_tree(draw, tree, beside.action)
        elif beside.action is not None:
            name = self._told.names[beside.action]
            draw.text((_LEFT, _BARS_TOP), name, fill=_CHOSEN, font=_font(17))
        return np.asarray(image)

    def _draw_values(
        self, draw: "ImageDraw.ImageDraw", values: NDArray[np.float32], action: int | None
    ) -> None:
        """A bar for each action, from zero; its name on the left, its value on the right."""
        height = min(34, _BARS_HEIGHT // len(values))
        font = _font(min(17, height - 1))
        zero = self._across(0.0)
        for row, (name, value) in enumerate(zip(self._told.names, values, strict=True)):
            top = _BARS_TOP + row * height
            is_chosen = row == action
            # A search may choose an action that it looked at more often than at the best one.
            greedy = not self._told.trees
            is_explored = greedy and is_chosen and value < values.max() - _EQUAL
            chosen = _EXPLORED if is_explored else _CHOSEN
            end = self._across(float(value))
            draw.text((_LEFT, top), name, fill=chosen if is_chosen else _SOFT, font=font)
            draw.rectangle(
                (min(zero, end), top + 2, max(zero, end), top + height - 6),
                fill=chosen if is_chosen else _FAINT,
            )
            told = f"{value:.3f}"
            draw.text(
                (_RIGHT, top), told, fill=_INK if is_chosen else _SOFT, font=font, anchor="ra"
            )
            if is_explored:
                draw.text((_RIGHT, 98), "explored", fill=_EXPLORED, font=_font(17), anchor="ra")
        draw.line((zero, _BARS_TOP, zero, _BARS_TOP + height * len(values) - 4), fill=_SOFT)

    def _across(self, value: float) -> float:
        """Where a value is on the scale of the bars, in pixels."""
        share = (value - self._low) / (self._high - self._low)
        return _BARS[0] + share * (_BARS[1] - _BARS[0])


def _draw_tree(draw: "ImageDraw.ImageDraw", tree: SearchTree, action: int | None) -> None:
    draw.text((_LEFT, _CURVE[0] - 36), "the future it looked at", fill=_SOFT, font=_font(15))
    counted = f"{len(tree.parents) - 1:,} states"
    draw.text((_RIGHT, _CURVE[0] - 36), counted, fill=_SOFT, font=_font(15), anchor="ra")
    box = Box(_LEFT, _CURVE[0], _RIGHT, _CURVE[1])
    draw_tree(draw, tree, action, box, Colors(_FAINT, _CHOSEN, _POINTS))
    draw.text((_LEFT, _CURVE[1] + 8), "dots: points were made", fill=_SOFT, font=_font(13))


class _Curve:
    """The value of the best action over the game; dots where points were made.

    The lines and dots of earlier steps are kept. A video that drew them anew at each step would
    take time in proportion to the square of the game's length.
    """

    def __init__(self, best: NDArray[np.float32], rewards: NDArray[np.float64]) -> None:
        from PIL import Image, ImageDraw

        self._span = f"{best.min():.2f} … {best.max():.2f}"
        self._points = self._placed(best)
        self._is_paid = rewards != 0
        size = (_PANEL, _CURVE[1] - _CURVE[0] + 2 * _CURVE_MARGIN)
        self._lines = Image.new("RGB", size, _PAPER)
        self._dots = Image.new("1", size)
        self._step = -1  # the newest one in the lines and the dots
        ImageDraw.Draw(self._lines).line(self._points, fill=_FAINT, width=2)

    def draw(self, image: "Image.Image", step: int) -> None:
        """Draws the curve up to a step on the panel's image. No later step was drawn before."""
        from PIL import ImageDraw

        self._go_on(step)
        image.paste(self._lines, (0, _CURVE_TOP))
        image.paste(_POINTS, (0, _CURVE_TOP), self._dots)
        draw = ImageDraw.Draw(image)
        x, y = self._points[step]
        y += _CURVE_TOP
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=_INK)
        draw.text((_LEFT, _CURVE[0] - 36), "value of the best action", fill=_SOFT, font=_font(15))
        draw.text((_RIGHT, _CURVE[0] - 36), self._span, fill=_SOFT, font=_font(15), anchor="ra")
        draw.text((_LEFT, _CURVE[1] + 8), "dots: points were made", fill=_SOFT, font=_font(13))

    def _go_on(self, step: int) -> None:
        """Adds the steps that are new."""
        from PIL import ImageDraw

        new = range(self._step + 1, step + 1)
        line = self._points[max(self._step, 0) : step + 1]
        ImageDraw.Draw(self._lines).line(line, fill=_CHOSEN, width=2)
        dots = ImageDraw.Draw(self._dots)
        for x, y in (self._points[one] for one in new if self._is_paid[one]):
            dots.ellipse((x - 2, y - 2, x + 2, y + 2), fill=1)
        self._step = step

    @staticmethod
    def _placed(best: NDArray[np.float32]) -> list[tuple[float, float]]:
        """The pixel of each step in the images of the lines and the dots."""
        span = max(float(best.max() - best.min()), 1e-9)
        x = np.linspace(_LEFT, _RIGHT, len(best))
        y = _CURVE[1] - (best - best.min()) / span * (_CURVE[1] - _CURVE[0])
        return list(zip(x.tolist(), (y - _CURVE_TOP).tolist(), strict=True))


@cache
def _font(size: int) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
