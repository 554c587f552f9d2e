"""A serving process follows the registry: it looks between two batches, and swaps only to what is whole."""

from models.bundle import BundleError
from models.registry import Registry
from models.registry_types import Deployment, RegistryError


class Follower:
    """Notices within `poll_ms` that something else shall serve; never gives up what serves for something damaged.

    Attributes:
        deployment: what serves, None until the first poll found something.
        problem: why the newest change could not be followed, in words; None if all is well.
    """

    def __init__(self, registry: Registry, task: str, poll_ms: int = 500) -> None:
        """Follow one task; look at most every `poll_ms` milliseconds."""
        self.deployment: Deployment | None = None
        self.problem: str | None = None
        self._registry = registry
        self._task = task
        self._poll_ms = poll_ms
        self._next_ms: int | None = None
        self._generation = 0

    def start(self) -> Deployment:
        """Load what serves, or the newest whole one before it (`problem` says so).

        Raises:
            RegistryError: nothing whole can serve.
        """
        self._generation = self._registry.generation(self._task)
        self.deployment, problems = self._registry.last_good(self._task)
        self.problem = problems[0] if problems else None
        return self.deployment

    def poll(self, now_ms: int) -> Deployment | None:
        """Return what shall serve, if that changed, else None; `now_ms` is of a clock that never goes back."""
        if self._next_ms is not None and now_ms < self._next_ms:
            return None
        self._next_ms = now_ms + self._poll_ms
        generation = self._registry.generation(self._task)
        if generation == self._generation:
            return None
        self._generation = generation
        try:
            self.deployment = self._registry.live(self._task)
        except (BundleError, RegistryError) as problem:
            self.problem = str(problem)
            return None
        self._generation = self.deployment.serving.generation  # may be newer than the one that was noticed
        self.problem = None
        return self.deployment
