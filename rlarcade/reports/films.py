"""Films a game of the agent that is in training, every so many steps."""

import re
from pathlib import Path

from rlarcade.errors import RlarcadeError
from rlarcade.evaluation import evaluate_agent
from rlarcade.evaluation.documents import recordings_of
from rlarcade.files import own_folder
from rlarcade.learning.schedules import crossed
from rlarcade.reports.pictures import values_of, write_video
from rlarcade.runs.listener import Listener
from rlarcade.runs.training_run import TrainingRun
from rlarcade.seeding import SeedUse

FOLDER = "videos"
_NAME = re.compile(r"step-(\d{12,15})\.mp4")


class Films:
    """The videos of a run, RUN/videos/step-000000050000.mp4 and so on.

        films = Films(run, interval=100_000)
        for progress in run:
            films.film_if_due(progress.steps)

    Every video shows the same game of the evaluations during training: the one with the first seed.
    """

    def __init__(self, run: TrainingRun, interval: int, listener: Listener | None = None) -> None:
        """Films now if the run was stopped while it should have filmed.

        Args:
            run: the run.
            interval: agent steps between videos; 0 for none.
            listener: told once if no video can be made, and asked whether to stop.
        """
        self._run, self._interval = run, interval
        self._listener = listener or Listener()
        self._folder = run.folder / FOLDER
        # A later video shows work that was lost. It is filmed again.
        made = [step for step in filmed_steps(run.folder) if step <= run.steps]
        self._filmed = max(made, default=0)
        self.film_if_due(run.steps)

    def film_if_due(self, steps: int) -> None:
        """Films a game if a multiple of the interval was passed since the last one.

        If a video fails, the run warns once, makes no more videos, and goes on.
        """
        if not crossed(self._interval, self._filmed, steps):
            return
        try:
            self._film(steps)
        except (RlarcadeError, OSError) as error:
            self._listener.warn(f"no more videos are made: {error}")
            self._interval = 0
        except KeyboardInterrupt:
            if not self._listener.stop():
                raise  # else the resumed run films the game

    def _film(self, steps: int) -> None:
        own_folder(self._folder)
        agent = self._run.state.agent
        evaluation = evaluate_agent(
            agent, episodes=1, seed=self._run.config.seed, use=SeedUse.SELECTION
        )
        (recording,) = recordings_of(evaluation)
        path = self._folder / f"step-{steps:012d}.mp4"
        write_video(path, recording, values_of(agent, recording), on_step=self._stop_if_asked)
        self._filmed = steps
        self._run.tracking.video(steps, "videos", path)

    def _stop_if_asked(self, *_: object) -> None:
        if self._listener.stop():
            raise KeyboardInterrupt


def filmed_steps(run_folder: Path) -> list[int]:
    """Returns the agent steps of a run's videos, in no order."""
    names = (_NAME.fullmatch(path.name) for path in (run_folder / FOLDER).glob("step-*.mp4"))
    return [int(name[1]) for name in names if name]
