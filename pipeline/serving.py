"""The models that a worker decides with: they follow the registry, and change between two batches only."""

from __future__ import annotations

from collections.abc import Callable

from models.bundle import Bundle, BundleError
from models.follow import Follower
from models.registry import Registry
from models.registry_types import Deployment, RegistryError
from pipeline.decisions import AnyScorer, Served


class ServedModels:
    """What serves one task. `current` is read by the worker, `refresh` may run in another thread.

    A new bundle is loaded and warmed up before it takes over, so no batch waits for it; one that is damaged or was
    trained for other features never takes over, and `problem` says why.

    Args:
        registry: to follow.
        task: whose models.
        open_scorer: returns the models of a bundle, with the newer state of its learner if there is one, warmed up.
        poll_ms: how often to look.
    """

    def __init__(
        self,
        registry: Registry,
        task: str,
        open_scorer: Callable[[Bundle, bytes | None], AnyScorer],
        poll_ms: int = 500,
    ) -> None:
        self._open_scorer = open_scorer
        self._follower = Follower(registry, task, poll_ms)
        self._current = Served()
        self.problem: str | None = None
        self.changes = 0

    @property
    def current(self) -> Served:
        """The models that decide the next batch."""
        return self._current

    def start(self) -> Served:
        """Load what serves now; without any, rules decide alone and `problem` says so."""
        try:
            self._take(self._follower.start())
        except (RegistryError, BundleError) as error:
            self.problem = str(error)
        return self._current

    def refresh(self, now_ms: int) -> bool:
        """Look whether something else shall serve, load it and hand over; True if it did.

        `now_ms` is of a clock that never goes back.
        """
        deployment = self._follower.poll(now_ms)
        if deployment is None:
            self.problem = self._follower.problem or self.problem
            return False
        try:
            self._take(deployment)
        except (RegistryError, BundleError, ValueError) as error:
            self.problem = f"{error}; {self._current.bundle or 'the rules'} go on deciding"
            return False
        return True

    def _take(self, deployment: Deployment) -> None:
        serving = deployment.serving
        was = self._current
        if was.scorer is not None and was.bundle == serving.bundle and deployment.snapshot is not None:
            scorer: AnyScorer = was.scorer.with_snapshot(deployment.snapshot)
        else:
            scorer = self._open_scorer(deployment.bundle, deployment.snapshot)
        self._current = Served(scorer, serving.bundle, serving.snapshot or "")
        self.problem = self._follower.problem
        self.changes += 1
