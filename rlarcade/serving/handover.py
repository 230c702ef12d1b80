"""Hands an approved version of the pipeline over to a rollout."""

from rlarcade.promotion.pipeline import Release
from rlarcade.promotion.submissions import move
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import OPEN_STATES
from rlarcade.registry.states import Submission
from rlarcade.serving.rollout_store import open_rollout, rollouts_of
from rlarcade.serving.settings import RolloutSpec


def by_rollout(spec: RolloutSpec) -> Release:
    """Returns a `release` for `run_pipeline` and `approve` that opens a rollout.

    The submission stays approved until the rollout ends: it is promoted with the rollout's success,
    and stale when the rollout was rolled back or aborted. A server that uses the registry drives
    the rollout.

    Args:
        spec: the strategy and its settings.
    """

    def release(registry: Registry, approved: Submission, actor: str) -> Submission:
        if registry.generation(approved.game) != approved.champion_generation:
            note = "the champion has changed: the verdict is about an earlier one"
            return move(registry, approved, "stale", actor, note=note)
        for one in rollouts_of(registry, approved.game):
            if one.submission == approved.id and one.state in OPEN_STATES:
                return approved  # its rollout is on the way already
        version = registry.version(approved.version)
        open_rollout(registry, version, spec, actor=actor, submission=approved.id)
        return approved

    return release
