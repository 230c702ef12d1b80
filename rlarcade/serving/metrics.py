"""Counters for Prometheus."""

import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from rlarcade.serving.engine import Replica
    from rlarcade.serving.referee import Ruling
    from rlarcade.serving.sessions import Session

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_POINTS = (0, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)

KEPT_SECONDS = 300.0
"""Seconds for which the counters of a version that was unloaded are still told, so that Prometheus
sees their last values."""
MOST_LATENCIES = 1_000
"""Newest decisions of a version whose times are kept."""
MOST_VERSIONS = 256
"""Most versions whose times are kept: 10 MB. Then those of the first one are forgotten."""


class Latency(NamedTuple):
    """How long a version's newest decisions took."""

    decisions: int
    """How many they are, at most `MOST_LATENCIES`."""
    median: float
    """Seconds."""
    p99: float
    """Seconds: 99 of 100 decisions took no longer."""


class Metrics:
    """Counters of one server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loaded: set[str] = set()
        self._unloaded: dict[str, float] = {}
        """Since when a version with counters is not loaded."""
        self._newest: dict[int, deque[float]] = {}
        self._all = CollectorRegistry()
        self._requests = Counter(
            "rlarcade_requests",
            "Requests by path pattern and status",
            ("path", "code"),
            registry=self._all,
        )
        self._decisions = Counter(
            "rlarcade_decisions",
            "Forward passes that clients asked for, by version, role and result",
            ("version", "role", "result"),
            registry=self._all,
        )
        self._seconds = Histogram(
            "rlarcade_decision_seconds",
            "Time of a forward pass, with the time in the queue",
            ("version", "role"),
            buckets=_SECONDS,
            registry=self._all,
        )
        self._sessions = Gauge(
            "rlarcade_sessions_active",
            "Open sessions",
            ("game", "kind"),
            registry=self._all,
        )
        self._episodes = Counter(
            "rlarcade_episodes",
            "Sessions that ended, by version, role and how",
            ("game", "version", "role", "ended"),
            registry=self._all,
        )
        self._of_versions = (
            (self._decisions, ("version", "role", "result")),
            (self._seconds, ("version", "role")),
            (self._episodes, ("game", "version", "role", "ended")),
        )
        """The families with a label for the version, and all their labels."""
        self._scores = Histogram(
            "rlarcade_episode_score",
            "Scores of a rollout's games, as the referee found them",
            ("game", "role"),
            buckets=_POINTS,
            registry=self._all,
        )
        self._replicas = Gauge(
            "rlarcade_replicas",
            "Healthy workers by version",
            ("version",),
            registry=self._all,
        )
        self._untrue = Counter(
            "rlarcade_untrue_frames",
            "Games whose client sent other frames than the emulator shows",
            ("game",),
            registry=self._all,
        )
        self._shadowed = Counter(
            "rlarcade_shadow_decisions",
            "Decisions of the champion that a shadow made, too, by result",
            ("game", "result"),
            registry=self._all,
        )
        self._stale = Gauge(
            "rlarcade_registry_stale",
            "1 while the registry cannot be used and the last plan stays in force",
            registry=self._all,
        )

    def request(self, path: str, code: int) -> None:
        """Counts an answered request by its path pattern."""
        self._requests.labels(path, str(code)).inc()

    def decided(self, version: int, role: str | None, result: str, seconds: float) -> None:
        """Counts a forward pass, and keeps the time of one that gave values."""
        labels = str(version), role or "addressed"
        self._decisions.labels(*labels, result).inc()
        self._seconds.labels(*labels).observe(seconds)
        if result == "ok":
            newest = self._newest.get(version)
            if newest is None:
                newest = self._newest[version] = deque(maxlen=MOST_LATENCIES)
                if len(self._newest) > MOST_VERSIONS:
                    del self._newest[next(iter(self._newest))]
            newest.append(seconds)

    def latency(self, version: int) -> Latency | None:
        """Returns how long a version's newest forward passes took, with the time in the queue.

        Returns:
            Median and 99th percentile (nearest rank) of at most `MOST_LATENCIES` passes since the
            server started. None: there was none.
        """
        newest = self._newest.get(version)
        if newest is None:
            return None
        median, p99 = np.quantile(newest, (0.5, 0.99), method="inverted_cdf").tolist()
        return Latency(len(newest), median, p99)

    def began(self, session: "Session") -> None:
        """Counts a new session."""
        self._sessions.labels(session.game, session.kind).inc()

    def ended(self, session: "Session") -> None:
        """Counts a session that ended."""
        self._sessions.labels(session.game, session.kind).dec()
        self._episodes.labels(
            session.game, str(session.version), session.role or "addressed", session.state
        ).inc()

    def ruled(self, game: str, role: str, ruling: "Ruling") -> None:
        """Counts a game that the referee played."""
        if not ruling.true_frames:
            self._untrue.labels(game).inc()
        if ruling.episode.ended != "failed":
            self._scores.labels(game, role).observe(ruling.episode.score)

    def shadowed(self, game: str, result: str, decisions: int) -> None:
        """Counts decisions of a shadow that agreed, differed, failed or were dropped."""
        self._shadowed.labels(game, result).inc(decisions)

    def stale(self, stale: bool) -> None:
        """Says whether the registry cannot be used."""
        self._stale.set(float(stale))

    def forget_unloaded(self, loaded: Collection[int]) -> None:
        """Forgets the counters of versions that answer nothing any more.

        Without that, a server that lives for months would tell of every version that it ever had.

        Args:
            loaded: numbers of the versions that are loaded. The counters of another one are
                forgotten when it has been missing for `KEPT_SECONDS`.
        """
        now, known = self._clock(), {str(version) for version in loaded}
        if known == self._loaded and not self._unloaded:
            return  # what a late answer may leave is found the next time
        self._loaded = known
        series = {family: _label_values(family, names) for family, names in self._of_versions}
        gone = {labels["version"] for found in series.values() for labels in found} - known
        self._unloaded = {version: self._unloaded.get(version, now) for version in gone}
        old = {one for one, since in self._unloaded.items() if now - since >= KEPT_SECONDS}
        for family, found in series.items():
            for labels in found:
                if labels["version"] in old:
                    family.remove(*labels.values())
        for version in old:
            self._newest.pop(int(version), None)

    def replicas(self, replicas: Iterable["Replica"]) -> None:
        """Tells how many healthy workers serve each version."""
        healthy = Counts(
            version for replica in replicas if replica.healthy for version in replica.versions
        )
        self._replicas.clear()
        for version, count in healthy.items():
            self._replicas.labels(str(version)).set(count)

    def text(self) -> bytes:
        """Returns all counters in Prometheus's text format."""
        return generate_latest(self._all)


def _label_values(family: Counter | Histogram, names: Iterable[str]) -> list[dict[str, str]]:
    """Returns the values of a family's labels, in their order, for each of its series."""
    samples = (sample for metric in family.collect() for sample in metric.samples)
    found = {tuple(sample.labels[name] for name in names) for sample in samples}
    return [dict(zip(names, values, strict=True)) for values in found]
