"""Workers and brokers are killed, frozen, added and taken away while events flow; nothing may be lost or double.

By hand: python -m tests.chaos.kafka_chaos --rounds 30 --events 1000000 --seed 7 --brokers 3
The last line is JSON. The same seed does the same things, to the same processes, in the same order.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from connectors.kafka.settings import KafkaSettings
from pipeline.live import create_topics
from pipeline.loading import load_app
from pipeline.stages import stages_of
from tests.chaos.kafka_checks import (
    Manifests,
    check_decided_once,
    check_first_stage,
    check_ledgers,
    check_stages,
    wait_until_taken,
)
from tests.chaos.kafka_site import APP, PARTITIONS, Journal, Sending, Workers, now_ms
from tests.kafka_broker import KafkaBroker, session_s

WORKERS_MIN, WORKERS_MAX = 2, 3
RECOVERY_S_MAX = 90.0
TAKEN_S_MAX = 1_200.0
GOAL_S = 5.0  # after the end of a session, or of what was done to the brokers


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        acts: names of methods of `Chaos`, in order; () draws `rounds` of them.
        round_s: how long each round lasts at least.
        checked: of how many partitions an oracle recomputes what was served.
        sample: events of each stage and partition that the oracle recomputes.
    """

    seed: int = 7
    events: int = 30_000
    rounds: int = 4
    brokers: int = 1
    acts: Sequence[str] = ()
    session_s: float = 2.0
    round_s: float = 5.0
    sample: int = 40
    checked: int = PARTITIONS


@dataclass
class Round:
    """One act, to whom, and how long until every stage and partition had committed again.

    Attributes:
        after_s: seconds since the act.
        beyond_s: seconds since the end of what the act itself takes: of the session of a worker that is silent, of the
            brokers' absence.
    """

    act: str
    whom: str
    after_s: float
    beyond_s: float


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    rounds: list[Round]
    checks: list[str]
    problems: dict[str, int]
    events: int
    sent_again: int
    seconds: float
    took: dict[str, float] = field(default_factory=dict)


class Chaos:
    """Does things to workers and brokers, by a seed."""

    def __init__(self, plan: Plan, broker: KafkaBroker, workers: Workers, log: Manifests, say: Journal) -> None:
        self._plan, self._broker, self._workers, self._log, self._say = plan, broker, workers, log, say
        self._draw = random.Random(plan.seed)

    def acts(self) -> list[str]:
        """Return what will be done: everything once before anything is done again."""
        if self._plan.acts:
            return list(self._plan.acts)
        deck = ["kill_worker", "add_worker", "remove_worker", "freeze_worker", "stall_worker", "restart_broker",
                "stall_broker"]  # fmt: skip
        deck += ["change_leader", "stall_leader"] if self._plan.brokers > 1 else []
        found: list[str] = []
        while len(found) < self._plan.rounds:
            found += self._draw.sample(deck, len(deck))
        return found[: self._plan.rounds]

    def round(self, act: str) -> Round:
        """Do one thing, and wait until every stage and partition has committed again."""
        while len(self._workers.running) < WORKERS_MIN:
            self._joined(self._workers.start())
        began_ms, began_s = now_ms(), time.monotonic()
        whom, over_ms = getattr(self, act)()
        until_s = time.monotonic() + RECOVERY_S_MAX
        while (found := self._log.first_commit_ms(over_ms)) is None:
            self._workers.check()
            assert time.monotonic() < until_s, f"{act}: not every partition goes on\n{self._workers.words()[-4000:]}"
            threading.Event().wait(0.1)
        session_ms = self._plan.session_s * 1000 if act in ("kill_worker", "freeze_worker") else 0
        done = Round(act, whom, (found - began_ms) / 1000, max(found - over_ms - session_ms, 0) / 1000)
        self._say(f"    all go on {done.after_s:.1f} s after the act, {done.beyond_s:.1f} s beyond what it takes")
        threading.Event().wait(max(began_s + self._plan.round_s - time.monotonic(), 0.0))
        return done

    def _pick(self) -> int:
        return self._draw.choice(sorted(self._workers.running))

    def kill_worker(self) -> tuple[str, int]:
        """As a power cut does."""
        number = self._pick()
        self._workers.kill(number)
        self._say(f"kill -9 of worker {number}")
        return f"worker {number}", now_ms()

    def add_worker(self) -> tuple[str, int]:
        """One more takes partitions over; the longest there is leaves if there are many."""
        if len(self._workers.running) >= WORKERS_MAX:
            self._say(f"too many workers: {self.remove_worker()[0]} leaves")
        number = self._workers.start()
        return f"worker {number}", self._joined(number)

    def _joined(self, number: int) -> int:
        """Wait until a new worker has partitions: before, brokers that are away would end it; return when."""
        self._say(f"worker {number} starts")
        until_s = time.monotonic() + RECOVERY_S_MAX
        while " joined" not in self._workers.said(number):
            self._workers.check()
            assert time.monotonic() < until_s, f"worker {number} gets no partition"
            threading.Event().wait(0.05)
        self._say(f"worker {number} has partitions")
        return now_ms()

    def remove_worker(self) -> tuple[str, int]:
        """SIGTERM: it snapshots and leaves."""
        number = self._pick()
        self._say(f"worker {number} is told to leave")
        self._workers.leave(number)
        return f"worker {number}", now_ms()

    def freeze_worker(self) -> tuple[str, int]:
        """For longer than the group waits for it: it comes back as a zombie."""
        number, began_ms = self._pick(), now_ms()
        self._stall(number, self._plan.session_s * 2.5)
        return f"worker {number}", began_ms

    def stall_worker(self) -> tuple[str, int]:
        """For less than the group waits for it: it goes on as if nothing had been."""
        number = self._pick()
        self._stall(number, self._plan.session_s * 0.5)
        return f"worker {number}", now_ms()

    def _stall(self, number: int, seconds: float) -> None:
        self._say(f"worker {number} is frozen for {seconds:.1f} s")
        self._workers.stall(number)
        threading.Event().wait(seconds)
        self._workers.resume(number)

    def restart_broker(self) -> tuple[str, int]:
        """All brokers are killed, and come back after a while."""
        away_s = self._draw.uniform(0.5, 4.0)
        self._say(f"brokers are killed, for {away_s:.1f} s")
        self._broker.kill()
        threading.Event().wait(away_s)
        self._broker.start()
        self._say("brokers are back")
        return "all brokers", now_ms()

    def stall_broker(self) -> tuple[str, int]:
        """The network stalls: connections stay open, and nothing answers.

        Not for as long as all brokers would miss each other: then no partition has a leader for a moment, and Kafka
        4.3.1 may forget to end transactions. Pelton refuses to go on then (tests/connectors/kafka/test_hanging.py).
        """
        seconds = min(self._draw.uniform(0.5, 2.5) * self._plan.session_s, 0.8 * session_s(self._plan.brokers))
        self._say(f"brokers are frozen for {seconds:.1f} s")
        for number in range(self._plan.brokers):
            self._broker.stall(number)
        threading.Event().wait(seconds)
        for number in range(self._plan.brokers):
            self._broker.resume(number)
        return "all brokers", now_ms()

    def change_leader(self) -> tuple[str, int]:
        """One of several brokers is killed: others lead its partitions; it comes back later."""
        number, over_ms = self._draw.randrange(self._plan.brokers), now_ms()
        self._say(f"broker {number} is killed, others lead")
        self._broker.kill(number)
        until_s = time.monotonic() + RECOVERY_S_MAX
        while self._log.first_commit_ms(over_ms + 100) is None and time.monotonic() < until_s:
            threading.Event().wait(0.1)
        self._say(f"broker {number} comes back")
        self._broker.start(number)
        return f"broker {number}", over_ms + 100

    def stall_leader(self) -> tuple[str, int]:
        """One of several brokers is frozen for longer than the cluster waits for it."""
        number, over_ms = self._draw.randrange(self._plan.brokers), now_ms()
        self._say(f"broker {number} is frozen for 6 s")
        self._broker.stall(number)
        threading.Event().wait(6.0)
        self._broker.resume(number)
        return f"broker {number}", over_ms + 100


def run(plan: Plan, folder: Path, say: Journal) -> Outcome:
    """Let an app suffer, then check everything.

    Raises:
        AssertionError: something is lost, double or different, or does not go on.
    """
    began_s = time.monotonic()
    (folder / "app.py").write_text(APP)
    app = load_app(str(folder / "app.py"))
    more = "group.min.session.timeout.ms=1000\n"
    if plan.brokers > 1:
        more += "min.insync.replicas=2\ntransaction.state.log.min.isr=2\n"
    with contextlib.ExitStack() as stack:
        broker = KafkaBroker(plan.brokers, settings=more)
        stack.callback(broker.close)
        broker.start()
        settings = KafkaSettings.read(broker.address, {})
        log = stack.enter_context(Manifests(settings, timeout_s=3.0))
        create_topics(app, log, PARTITIONS)
        log.watch(stages_of(app, PARTITIONS))
        stack.callback(log.end_watch, folder)
        workers = Workers(folder, broker.address, plan.session_s, say)
        stack.callback(workers.close)
        for _ in range(WORKERS_MIN):
            say(f"worker {workers.start()} starts")
        sending = Sending(settings, plan.seed, plan.events, plan.events / ((plan.rounds + 1) * plan.round_s), say)
        sending.start()
        chaos = Chaos(plan, broker, workers, log, say)
        started_ms = now_ms()
        while log.first_commit_ms(started_ms) is None:
            workers.check()
            threading.Event().wait(0.1)
        rounds = [chaos.round(act) for act in chaos.acts()]
        say(f"{sending.sent:,} events sent; the rest follows")
        made = sending.finish()
        sent_s = time.monotonic()
        wait_until_taken(log, made, workers.check, TAKEN_S_MAX)
        say(f"{sending.sent:,} events, all decided {time.monotonic() - sent_s:.1f} s after the last was sent")
        for number in list(workers.running):
            workers.leave(number)
        log.end_watch(folder)
        checked_s = time.monotonic()
        decisions, once = check_decided_once(log, made, sending.sent)
        checks = [once]
        say(once)
        checks.append(check_ledgers(log, app, made))
        say(checks[-1])
        checks.append(check_first_stage(log, app, decisions, folder / "alone"))
        say(checks[-1])
        checks.append(check_stages(log, app, plan.sample, plan.seed, range(plan.checked)))
        say(checks[-1])
        assert "Traceback" not in workers.words()
        took = {"suffering and deciding": checked_s - began_s, "checking": time.monotonic() - checked_s}
        return Outcome(plan, rounds, checks, workers.problems(), sending.sent, made.again,
                       time.monotonic() - began_s, took)  # fmt: skip


def summary(outcome: Outcome) -> str:
    """Return what came of it, as a table by act."""
    lines = [f"{'act':<16}{'times':>6}{'beyond: median':>16}{'worst':>8}{'after the act, worst':>22}   (seconds)"]
    for act in dict.fromkeys(each.act for each in outcome.rounds):
        some = [each for each in outcome.rounds if each.act == act]
        beyond = sorted(each.beyond_s for each in some)
        worst = max(each.after_s for each in some)
        lines.append(f"{act:<16}{len(some):>6}{beyond[len(some) // 2]:>16.1f}{beyond[-1]:>8.1f}{worst:>22.1f}")
    within = sum(each.beyond_s < GOAL_S for each in outcome.rounds)
    lines.append(f"{within} of {len(outcome.rounds)} rounds within {GOAL_S:.0f} s")
    lines += outcome.checks
    lines += [f"told {count} times: {problem}" for problem, count in outcome.problems.items()]
    return "\n".join(lines)


def main() -> None:
    """Run it by hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--session", type=float, default=4.0, help="seconds that a silent worker keeps its partitions")
    parser.add_argument("--round", type=float, default=8.0, help="seconds of a round, at least")
    parser.add_argument("--sample", type=int, default=500, help="events to recompute, per stage and partition")
    parser.add_argument("--acts", nargs="*", default=(), help="instead of drawn ones")
    asked = parser.parse_args()
    plan = Plan(asked.seed, asked.events, len(asked.acts) or asked.rounds, asked.brokers, tuple(asked.acts),
                asked.session, asked.round, asked.sample)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="pelton-chaos-") as folder:
        try:
            outcome = run(plan, Path(folder), Journal(lambda text: print(text, flush=True)))
        except BaseException:
            kept = Path(tempfile.mkdtemp(prefix="pelton-chaos-failed-"))
            for log in Path(folder).glob("*.log"):
                (kept / log.name).write_text(log.read_text())
            print(f"what workers printed is in {kept}", flush=True)
            raise
    print(summary(outcome))
    figures = asdict(outcome) | {"beyond_s_max": max((each.beyond_s for each in outcome.rounds), default=0.0)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
