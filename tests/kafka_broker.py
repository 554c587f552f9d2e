"""A real Apache Kafka for tests: one process or several, on free ports, thrown away afterwards.

By hand: python -m tests.kafka_broker   prints the address and runs until Ctrl-C.
"""

import base64
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.kafka_certificates import Certificates
from tests.kafka_jars import class_path

START_S_MAX = 60.0
STOP_S_MAX = 30.0
USERS = {"alice": "alice's secret", "bob": "bob's secret"}  # may do nothing before an ACL allows it
SECURED = ("SASL_PLAINTEXT", "SSL", "SASL_SSL")  # listeners beside the plain one, whose clients may do everything
_COUNT = itertools.count()
# Below the ports that outgoing connections get: nobody takes the port of a broker while it is restarted.
_PORTS = range(20_000, 32_000)
_SETTINGS = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners={listeners}
advertised.listeners={advertised}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms={session_ms}
broker.heartbeat.interval.ms=500
default.replication.factor={copies}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.num.partitions=4
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.min.isr=1
log.cleaner.dedupe.buffer.size=8388608
"""
_SECURITY = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location={keys}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.ssl.ssl.client.auth=required
"""
_LOGIN = "org.apache.kafka.common.security"


def session_s(brokers: int) -> float:
    """Return for how long a cluster waits for a broker: Kafka's own setting; shorter where another can take over."""
    return 3.0 if brokers > 1 else 9.0


class KafkaBroker:
    """A cluster of brokers, each a process that is broker and controller.

    Args:
        brokers: how many; topics get as many copies unless they say otherwise.
        secured: listeners with SASL and TLS too, and a broker that asks its ACLs.
        settings: more lines for server.properties.

    Attributes:
        address: "host:port" of the plain listeners, with commas between brokers.
        certificates: files of a CA, the brokers and a client, where `secured`.
    """

    def __init__(self, brokers: int = 1, *, secured: bool = False, settings: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pelton-kafka-"))
        names = ("PLAINTEXT", "CONTROLLER", *(SECURED if secured else ()))
        free = _free_ports()
        self._ports = [{name: next(free) for name in names} for _ in range(brokers)]
        self._running: list[subprocess.Popen | None] = [None] * brokers
        self._guards: list[subprocess.Popen | None] = [None] * brokers
        self.certificates = Certificates(self._folder) if secured else None
        self.address = self.address_of("PLAINTEXT")
        # The first byte is 0, so that the text never begins with a dash, which the tool takes for an option.
        cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        try:
            for number in range(brokers):
                self._format(number, cluster, settings)
        except BaseException:
            self.close()
            raise

    def address_of(self, listener: str) -> str:
        """Return "host:port" of a listener: PLAINTEXT, SASL_PLAINTEXT, SSL or SASL_SSL."""
        return ",".join(f"localhost:{ports[listener]}" for ports in self._ports)

    def pid(self, number: int = 0) -> int:
        """Return the process id of a broker that runs."""
        return self._process(number).pid

    def start(self, number: int | None = None) -> None:
        """Start one broker or all, and wait until all that run are in the cluster."""
        for each in self._chosen(number):
            if self._running[each] is None:
                with (self._folder / f"out-{each}").open("ab") as out:
                    command = ["java", "-Xmx512m", "-cp", class_path(), "kafka.Kafka", str(self._properties(each))]
                    self._running[each] = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
                self._guards[each] = _guard(self.pid(each), self._folder)
        self._wait_until_it_answers()

    def stop(self, number: int | None = None) -> None:
        """Stop one broker or all as an operator does: partitions are handed over first."""
        self._end(number, signal.SIGTERM)

    def kill(self, number: int | None = None) -> None:
        """Kill one broker or all, as a power cut does."""
        self._end(number, signal.SIGKILL)

    def restart(self, number: int | None = None) -> None:
        """Stop and start on the same port and data."""
        self.stop(number)
        self.start(number)

    def stall(self, number: int = 0) -> None:
        """Freeze a broker: connections stay open and nothing answers."""
        self._process(number).send_signal(signal.SIGSTOP)

    def resume(self, number: int = 0) -> None:
        """Let a frozen broker go on."""
        self._process(number).send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End everything and remove the data."""
        self.kill()
        shutil.rmtree(self._folder)

    def _chosen(self, number: int | None) -> range:
        return range(len(self._running)) if number is None else range(number, number + 1)

    def _process(self, number: int) -> subprocess.Popen:
        process = self._running[number]
        assert process is not None, f"broker {number} does not run"
        return process

    def _end(self, number: int | None, how: int) -> None:
        ended = [(each, process) for each in self._chosen(number) if (process := self._running[each]) is not None]
        for each, process in ended:
            process.send_signal(how)
            self._running[each] = None
        for each, process in ended:
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:  # a frozen one, or the last of a quorum, does not stop by itself
                process.kill()
                process.wait()
            guard = self._guards[each]
            assert guard is not None
            guard.kill()
            guard.wait()
            guard.stdin.close()

    def _wait_until_it_answers(self) -> None:
        until_s = time.monotonic() + START_S_MAX
        running = {number: process for number, process in enumerate(self._running) if process is not None}
        addresses = [f"localhost:{self._ports[number]['PLAINTEXT']}" for number in running]
        while not all(map(_is_open, addresses)) or not _has_brokers(addresses, len(running)):
            for number, process in running.items():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(0.05)
                    said = (self._folder / f"out-{number}").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"broker {number} ended with {code}: {said or 'it said nothing'}")
            if time.monotonic() > until_s:
                raise RuntimeError(f"{addresses} did not answer within {START_S_MAX:.0f} s")

    def _properties(self, number: int) -> Path:
        return self._folder / f"server-{number}.properties"

    def _format(self, number: int, cluster: str, more: str) -> None:
        ports = self._ports[number]
        text = _SETTINGS.format(
            node=number + 1,
            voters=",".join(f"{node}@localhost:{each['CONTROLLER']}" for node, each in enumerate(self._ports, 1)),
            listeners=",".join(f"{name}://localhost:{port}" for name, port in ports.items()),
            advertised=",".join(f"{name}://localhost:{port}" for name, port in ports.items() if name != "CONTROLLER"),
            data=self._folder / f"data-{number}", copies=min(3, len(self._ports)),
            session_ms=int(session_s(len(self._ports)) * 1000),
        )  # fmt: skip
        scram = []
        if self.certificates:
            text += _SECURITY.format(keys=self.certificates.broker, ca=self.certificates.ca) + _logins()
            for mechanism, (user, password) in itertools.product(("SCRAM-SHA-256", "SCRAM-SHA-512"), USERS.items()):
                scram += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        self._properties(number).write_text(text + more)
        command = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", class_path(), "kafka.tools.StorageTool"]
        arguments = ["format", "-t", cluster, "-c", str(self._properties(number)), *scram]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=START_S_MAX)
        if done.returncode:
            raise RuntimeError(f"broker {number} cannot be formatted: {(done.stdout + done.stderr)[-2000:]}")


def fresh(name: str) -> str:
    """Return a name for a topic, stream or app that no other test has, `name` in front of it."""
    return f"{name}_{os.getpid():x}{os.urandom(3).hex()}_{next(_COUNT)}"


def _logins() -> str:
    """Return who may log in by PLAIN; users of SCRAM stand in the cluster's own metadata."""
    users = " ".join(f'user_{user}="{password}"' for user, password in USERS.items())
    lines = []
    for listener in ("sasl_plaintext", "sasl_ssl"):
        name = f"listener.name.{listener}"
        lines.append(f"{name}.plain.sasl.jaas.config={_LOGIN}.plain.PlainLoginModule required {users};")
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            lines.append(f"{name}.{mechanism}.sasl.jaas.config={_LOGIN}.scram.ScramLoginModule required;")
    return "\n".join([*lines, ""])


def _free_ports() -> Iterator[int]:
    """Yield ports that nobody listens on, in an order of this process' own."""
    ports = list(_PORTS)
    random.Random(os.urandom(8)).shuffle(ports)
    for port in ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            yield port


def _guard(pid: int, folder: Path) -> subprocess.Popen:
    """Start a process that kills the broker and removes its data when this one is gone, however it ended."""
    script = 'read _; kill -9 "$0"; rm -rf -- "$1"'
    return subprocess.Popen(["sh", "-c", script, str(pid), str(folder)], stdin=subprocess.PIPE, start_new_session=True)


def _is_open(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0


def _has_brokers(addresses: list[str], count: int) -> bool:
    try:
        admin = KafkaAdminClient(bootstrap_servers=addresses, bootstrap_timeout_ms=5_000, request_timeout_ms=5_000)
    except KafkaError:
        return False
    try:
        return len(admin.describe_cluster()["brokers"]) >= count
    except KafkaError:
        return False
    finally:
        admin.close()


def main() -> None:
    """Run a broker by hand until Ctrl-C; with --secured, and --brokers 3."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--secured", action="store_true", help="listeners with SASL and TLS too")
    asked = parser.parse_args()
    broker = KafkaBroker(asked.brokers, secured=asked.secured)
    try:
        broker.start()
        print(broker.address, flush=True)
        for listener in SECURED if asked.secured else ():
            print(f"{listener} {broker.address_of(listener)}; users {USERS}", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        broker.close()


if __name__ == "__main__":
    main()
