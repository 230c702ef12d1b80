"""One Atari game as the wrappers of Stable-Baselines3 and CleanRL show it to their agents.

The other adapters use it. Their agents are trained with wrappers that make frames of screens, press
FIRE at the beginning, and begin anew when a life is lost. Without them the agents play badly: in
Breakout they never learned to serve the ball.
"""

import hashlib

import cv2
import numpy as np

from rlarcade import make_env

NOOP, FIRE = 0, 1
ALL_ACTIONS = 18


def has_fire(game, num_actions):
    """Whether an agent with this number of actions has FIRE among them: `FireResetEnv` asks it."""
    return num_actions == ALL_ACTIONS or "FIRE" in make_env(game).action_names


def sb3_frame(screen):
    """Returns the frame of SB3's `WarpFrame`: uint8 (84, 84) of a screen uint8 (210, 160, 3)."""
    return small(cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY))


def cleanrl_frame(screen):
    """Returns the frame of CleanRL, which scales before it takes the grey."""
    return cv2.cvtColor(small(screen), cv2.COLOR_RGB2GRAY)


def small(picture):
    """Returns a picture of 84×84 points."""
    return cv2.resize(picture, (84, 84), interpolation=cv2.INTER_AREA)


class WrappedGame:
    """The policy of one game: it remembers the last frames, and which buttons are still to press.

    Args:
        act: takes the last frames, uint8 (stack, 84, 84), newest last; returns an action.
        frame: makes a frame of a screen.
        stack: number of frames.
        fires: whether the game has an action FIRE. `FireResetEnv` presses it, and the next one.
        episodic: whether the agent was trained in `EpisodicLifeEnv`: then a lost life is an end.
        padding: the frames before the first one: "zeros", as SB3 has them, or "first".
    """

    def __init__(self, act, *, frame, stack=4, fires=False, episodic=True, padding="zeros"):
        self.act, self.frame, self.stack = act, frame, stack
        self.fires, self.episodic, self.padding = fires, episodic, padding
        self.begin()

    def begin(self):
        """Forgets the frames."""
        self.frames = None
        self.presses = [FIRE, FIRE + 1] if self.fires else []

    def life_lost(self):
        """Begins anew, as `EpisodicLifeEnv` does: in training, a lost life ended the episode."""
        if self.episodic:
            self.begin()
            self.presses.insert(0, NOOP)

    def __call__(self, screen):
        """Returns the action for a screen, uint8 (210, 160, 3)."""
        if self.presses:
            return self.presses.pop(0)
        frame = self.frame(screen)
        if self.frames is None:
            before = np.zeros_like(frame) if self.padding == "zeros" else frame
            self.frames = [before] * self.stack
        self.frames = [*self.frames[1:], frame]
        return self.act(np.stack(self.frames))


def digest_of(tensors, *settings):
    """Returns a text that identifies a policy: a digest of its tensors, and of what else counts."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
