"""The route of a run that is followed."""

from fastapi import APIRouter, Request

from rlarcade.serving.following import FollowedRun, RunState
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import REFUSALS, Told, online_of

router = APIRouter(prefix="/v1/run", tags=["a run that trains"], responses=REFUSALS)


class PlayingDocument(Told):
    """The checkpoint that plays new games."""

    version: int
    """Its number as a version of this server."""
    steps: int
    """Agent steps of its training."""
    seconds_old: float
    """Seconds since it was saved."""


class RunDocument(Told):
    """How a run goes."""

    folder: str
    state: RunState
    """waiting: nothing is saved yet. training: a process works on it. stopped: none does, and the
    run has not reached its end. ended: it has its outcome."""
    game: str | None
    """null: no checkpoint is served yet."""
    step: int
    """Agent step of the newest figure."""
    length: int | None
    """Agent steps of the whole run; null: unknown."""
    quiet_seconds: float | None
    """Seconds since the run last wrote something; null: it has written nothing."""
    playing: PlayingDocument | None
    """null: no checkpoint is served yet."""
    trouble: str | None
    """Why the newest checkpoint is not served; null: it is."""
    curve: tuple[tuple[int, float], ...]
    """(agent step, mean score of the last 100 training games), at most 400 points."""
    evaluations: tuple[tuple[int, float], ...]
    """(agent step, mean score) of the evaluations on the way."""
    steps_a_second: float | None
    exploration: float | None
    """Share of random actions in the training."""
    loss: float | None


@router.get("")
async def show(request: Request) -> RunDocument:
    """Shows how the run that is followed goes: its curve, and the checkpoint that plays."""
    online = online_of(request)
    if online.run is None:
        raise Refusal(404, "this server follows no run. Start it with `serve --run FOLDER`.")
    return await _document(online.run, next(iter(online.service.deployments), None))


async def _document(run: FollowedRun, game: str | None) -> RunDocument:
    told = await run.progress()
    figures, playing = told.figures, told.playing
    return RunDocument(
        folder=str(run.folder),
        state=told.state,
        game=game,
        step=figures.step,
        length=told.length,
        quiet_seconds=told.quiet_seconds,
        playing=None
        if playing is None
        else PlayingDocument(
            version=playing.number, steps=playing.steps, seconds_old=run.age(playing)
        ),
        trouble=told.trouble,
        curve=figures.curve,
        evaluations=figures.evaluations,
        steps_a_second=figures.newest.get("time/fps"),
        exploration=figures.newest.get("rollout/exploration_rate"),
        loss=figures.newest.get("train/loss"),
    )
