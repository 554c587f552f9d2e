"""The registry: which bundles and learner snapshots exist, which serve, who changed it when.

Rows live in SQL, files in a folder beside: `bundles/TASK/ID/` and `snapshots/TASK/ID`. Files are complete on disk
before their row exists, and are checked against their hash whenever they are loaded.
"""

from pathlib import Path

import msgspec
import sqlalchemy as sa

from models.bundle import BundleError, BundleMeta, read_bundle, sha256
from models.registry_files import Files
from models.registry_tables import AUDIT, BUNDLES, DEPLOYMENTS, SNAPSHOTS, begin_writing, connect, live_rows
from models.registry_types import AuditEntry, Deployment, RegistryError, Serving, Version

_GENERATION = sa.text("SELECT MAX(generation) FROM pelton_deployments WHERE task = :task")  # built once: it is polled
# Made once, here: msgspec crashes if two threads meet a type for the first time at once.
_META_DECODER = msgspec.json.Decoder(BundleMeta)
_METRICS_DECODER = msgspec.json.Decoder(dict[str, float | None])


class Registry:
    """Bundles, snapshots, deployments and their audit; safe with several processes."""

    def __init__(self, engine: sa.Engine, folder: Path) -> None:
        """Use `Registry.open`."""
        self._engine = engine
        self._files = Files(folder)

    @classmethod
    def open(cls, url: str | None, folder: Path) -> "Registry":
        """Open or make a registry; without a URL its rows are in `folder/registry.db`.

        Raises:
            RegistryError: the folder or the database cannot be used.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            engine = connect(url or f"sqlite:///{(folder / 'registry.db').absolute()}")
        except (OSError, sa.exc.SQLAlchemyError, ImportError) as cause:
            where = sa.engine.make_url(url).render_as_string(hide_password=True) if url and "://" in url else folder
            first = str(getattr(cause, "orig", None) or cause).splitlines()[0]
            raise RegistryError(
                f"the registry at {where} cannot be opened: {first}; check the path and its rights"
            ) from cause
        return cls(engine, folder)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    # ---- what exists ------------------------------------------------------------------------------------------------

    def add_bundle(self, task: str, folder: Path, who: str, now_ms: int) -> str:
        """Copy a bundle into the registry and return its id; adding it again mends a damaged copy.

        Raises:
            BundleError: it is damaged.
            RegistryError: it was made for another task.
        """
        bundle = read_bundle(folder)
        if bundle.meta.task != task:
            raise RegistryError(f"bundle {bundle.id} was made for task {bundle.meta.task!r}, not {task!r}")
        self._files.put_bundle(bundle)
        with self._engine.begin() as connection:
            begin_writing(connection)
            if connection.execute(_one(BUNDLES, task, bundle.id)).first() is None:
                meta = msgspec.json.encode(bundle.meta).decode()
                connection.execute(
                    BUNDLES.insert().values(
                        task=task, id=bundle.id, created_ms=bundle.meta.created_ms, added_ms=now_ms, meta=meta
                    )
                )
                _note(connection, now_ms, who, "add", task, bundle.id)
        return bundle.id

    def add_snapshot(
        self, task: str, bundle: str, data: bytes, metrics: dict[str, float | None], who: str, now_ms: int
    ) -> str:
        """Store a learner snapshot as a version of a bundle and return its id; it serves once promoted."""
        bundle = self._resolve(task, bundle, kinds=("bundle",)).id
        digest = sha256(data)
        snapshot = sha256(f"{bundle} {digest}".encode())[:12]
        self._files.put_snapshot(task, snapshot, data)
        with self._engine.begin() as connection:
            begin_writing(connection)
            if connection.execute(_one(SNAPSHOTS, task, snapshot)).first() is None:
                connection.execute(
                    SNAPSHOTS.insert().values(
                        task=task,
                        id=snapshot,
                        bundle=bundle,
                        created_ms=now_ms,
                        sha256=digest,
                        metrics=msgspec.json.encode(metrics).decode(),
                    )
                )
                _note(connection, now_ms, who, "snapshot", task, f"{bundle}+{snapshot}")
        return snapshot

    def versions(self, task: str | None = None) -> tuple[Version, ...]:
        """Return all bundles and snapshots (of a task), oldest first."""
        with self._engine.connect() as connection:
            found = []
            tasks = sa.true() if task is None else BUNDLES.c.task == task
            live = {row.task: row for row in connection.execute(live_rows())}
            for row in connection.execute(BUNDLES.select().where(tasks)):
                meta = _META_DECODER.decode(row.meta)
                now = row.task in live and live[row.task].bundle == row.id
                found.append(
                    Version(
                        row.task,
                        row.id,
                        "bundle",
                        row.id,
                        row.created_ms,
                        meta.metrics,
                        now,
                        meta.name,
                        meta.provenance,
                    )
                )
            tasks = sa.true() if task is None else SNAPSHOTS.c.task == task
            for row in connection.execute(SNAPSHOTS.select().where(tasks)):
                metrics = _METRICS_DECODER.decode(row.metrics)
                now = row.task in live and live[row.task].snapshot == row.id
                found.append(Version(row.task, row.id, "snapshot", row.bundle, row.created_ms, metrics, now))
        return tuple(sorted(found, key=lambda version: (version.task, version.created_ms, version.kind, version.id)))

    def show(self, task: str, id: str) -> Version:
        """Return the bundle or snapshot whose id starts with `id`.

        Raises:
            RegistryError: none does, or several do.
        """
        return self._resolve(task, id)

    # ---- what serves ------------------------------------------------------------------------------------------------

    def promote(self, task: str, id: str, who: str, now_ms: int) -> tuple[Serving | None, Serving]:
        """Let a bundle (with its newest snapshot) or a snapshot (with its bundle) serve; return what did and what does.

        Its files are checked first: if one is damaged, nothing changes.

        Raises:
            RegistryError: there is no such version.
            BundleError: a file of it is damaged or missing.
        """
        version = self._resolve(task, id)
        snapshot = version.id if version.kind == "snapshot" else self._newest_snapshot(task, version.id)
        return self._deploy(task, version.bundle, snapshot, who, "promote", now_ms)

    def rollback(self, task: str, who: str, now_ms: int, to: str | None = None) -> tuple[Serving, Serving]:
        """Let an earlier version serve again; return what did and what does.

        Without `to` that is the bundle that served before this one; `to` names another bundle, or a snapshot. A bundle
        comes back with the snapshot it last served with. Files are checked first: if one is damaged, nothing changes.

        Raises:
            RegistryError: nothing serves, there is nothing before, or there is no such version.
            BundleError: a file of it is damaged or missing.
        """
        live = self.serving(task)
        if to is None:
            before = self._last_served(task, DEPLOYMENTS.c.bundle != live.bundle)
            if before is None:
                raise RegistryError(
                    f"{task}: no bundle served before {live.bundle}; name an earlier snapshot of it with --to, "
                    f"see: pelton models list {task}"
                )
            bundle, snapshot = before.bundle, before.snapshot
        else:
            version = self._resolve(task, to)
            bundle, snapshot = version.bundle, version.id
            if version.kind == "bundle":
                before = self._last_served(task, DEPLOYMENTS.c.bundle == bundle)
                snapshot = before.snapshot if before else None
        was, now = self._deploy(task, bundle, snapshot, who, "rollback", now_ms)
        return was or live, now

    def generation(self, task: str) -> int:
        """Return the number of the newest change to what serves a task, 0 if nothing does; cheap enough to poll."""
        with self._engine.connect() as connection:
            return connection.execute(_GENERATION, {"task": task}).scalar() or 0

    def serving(self, task: str) -> Serving:
        """Return what serves a task, without loading it.

        Raises:
            RegistryError: nothing does.
        """
        live = self._last_served(task, sa.true())
        if live is None:
            raise RegistryError(f"nothing serves {task!r} yet; promote a bundle first: pelton models promote {task} ID")
        return live

    def history(self, task: str, newest: int = 100) -> tuple[Serving, ...]:
        """Return what served a task in its newest changes, oldest first."""
        query = DEPLOYMENTS.select().where(DEPLOYMENTS.c.task == task)
        query = query.order_by(DEPLOYMENTS.c.generation.desc()).limit(newest)
        with self._engine.connect() as connection:
            return tuple(_serving(row) for row in connection.execute(query))[::-1]

    def audit(self, task: str | None = None) -> tuple[AuditEntry, ...]:
        """Return who did what when, oldest first."""
        query = AUDIT.select().order_by(AUDIT.c.number)
        if task is not None:
            query = query.where(AUDIT.c.task == task)
        with self._engine.connect() as connection:
            return tuple(
                AuditEntry(row.at_ms, row.who, row.what, row.task, row.detail) for row in connection.execute(query)
            )

    def live(self, task: str) -> Deployment:
        """Load and check what serves a task.

        Raises:
            RegistryError: nothing serves it.
            BundleError: a file of it is damaged or missing; a process that serves already keeps what it has.
        """
        return self._load(task, self.serving(task))

    def last_good(self, task: str) -> tuple[Deployment, tuple[str, ...]]:
        """Load the newest deployment of a task whose files are whole, and say what is wrong with those after it.

        Raises:
            RegistryError: nothing serves it, or no deployment's files are whole.
        """
        problems: list[str] = []
        tried = set()
        for serving in reversed(self.history(task)):
            if str(serving) in tried:
                continue
            tried.add(str(serving))
            try:
                return self._load(task, serving), tuple(problems)
            except BundleError as problem:
                problems.append(str(problem))
        detail = f": {problems[0]}" if problems else ""
        raise RegistryError(f"nothing whole can serve {task!r}{detail}")

    def prune_snapshots(self, task: str, keep: int, who: str, now_ms: int) -> int:
        """Delete old snapshots of a task and return how many.

        The `keep` newest stay, those of the 10 newest changes, and the one each bundle last served with.
        """
        versions = self.versions(task)
        needed = {serving.snapshot for serving in self.history(task, newest=10)}
        for bundle in versions:
            if bundle.kind == "bundle" and (last := self._last_served(task, DEPLOYMENTS.c.bundle == bundle.id)):
                needed.add(last.snapshot)
        snapshots = [version for version in versions if version.kind == "snapshot"]
        old = [version.id for version in snapshots[: max(0, len(snapshots) - keep)] if version.id not in needed]
        with self._engine.begin() as connection:
            begin_writing(connection)
            for id in old:
                connection.execute(SNAPSHOTS.delete().where(SNAPSHOTS.c.task == task, SNAPSHOTS.c.id == id))
            if old:
                _note(connection, now_ms, who, "prune", task, f"{len(old)} snapshots")
        for id in old:  # rows first: a file without a row is only litter
            self._files.remove_snapshot(task, id)
        return len(old)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _deploy(
        self, task: str, bundle: str, snapshot: str | None, who: str, what: str, now_ms: int
    ) -> tuple[Serving | None, Serving]:
        self._load(task, Serving(bundle, snapshot, 0, now_ms))
        with self._engine.begin() as connection:
            begin_writing(connection)
            row = connection.execute(live_rows().where(DEPLOYMENTS.c.task == task)).first()
            was = None if row is None else _serving(row)
            now = Serving(bundle, snapshot, 1 + (was.generation if was else 0), now_ms)
            try:
                connection.execute(
                    DEPLOYMENTS.insert().values(
                        task=task, generation=now.generation, bundle=bundle, snapshot=snapshot, at_ms=now_ms
                    )
                )
            except sa.exc.IntegrityError as cause:
                raise RegistryError(
                    f"{task} was changed by somebody else at this moment; look, then try again"
                ) from cause
            _note(connection, now_ms, who, what, task, f"{was or 'nothing'} -> {now}")
        return was, now

    def _load(self, task: str, serving: Serving) -> Deployment:
        bundle = self._files.bundle(task, serving.bundle)
        if serving.snapshot is None:
            return Deployment(task, serving, bundle, None)
        with self._engine.connect() as connection:
            row = connection.execute(_one(SNAPSHOTS, task, serving.snapshot)).first()
        if row is None:
            raise BundleError(f"{task}: snapshot {serving.snapshot} was pruned; name another with --to")
        data = self._files.snapshot(task, serving.snapshot, row.sha256)
        return Deployment(task, serving, bundle, data)

    def _resolve(self, task: str, start: str, kinds: tuple[str, ...] = ("bundle", "snapshot")) -> Version:
        start = start.rpartition("+")[2]  # "bundle+snapshot", as a change is printed, means the snapshot
        versions = [version for version in self.versions(task) if version.kind in kinds]
        found = [version for version in versions if start and version.id.startswith(start.lower())]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(f"{version.kind} {version.id}" for version in found[:5])
            raise RegistryError(f"{task}: {start!r} could be {several}; give more digits")
        newest = ", ".join(version.id for version in versions[-5:]) or "none"
        raise RegistryError(f"{task}: no {' or '.join(kinds)} starts with {start!r}; the newest are: {newest}")

    def _last_served(self, task: str, which: sa.ColumnElement[bool]) -> Serving | None:
        query = DEPLOYMENTS.select().where(DEPLOYMENTS.c.task == task, which)
        with self._engine.connect() as connection:
            row = connection.execute(query.order_by(DEPLOYMENTS.c.generation.desc()).limit(1)).first()
        return None if row is None else _serving(row)

    def _newest_snapshot(self, task: str, bundle: str) -> str | None:
        query = (
            sa.select(SNAPSHOTS.c.id)
            .where(SNAPSHOTS.c.task == task, SNAPSHOTS.c.bundle == bundle)
            .order_by(SNAPSHOTS.c.created_ms.desc(), SNAPSHOTS.c.id)
            .limit(1)
        )
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()


def _one(table: sa.Table, task: str, id: str) -> sa.Select:
    return sa.select(table).where(table.c.task == task, table.c.id == id)


def _serving(row: sa.Row) -> Serving:
    return Serving(row.bundle, row.snapshot, row.generation, row.at_ms)


def _note(connection: sa.Connection, at_ms: int, who: str, what: str, task: str, detail: str) -> None:
    connection.execute(AUDIT.insert().values(at_ms=at_ms, who=who, what=what, task=task, detail=detail))
