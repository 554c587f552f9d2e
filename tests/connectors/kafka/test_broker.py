"""The broker that other tests stand on."""

from kafka import KafkaAdminClient

from tests.kafka_broker import KafkaBroker, fresh


def partitions(address, topic):
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        return [len(each["partitions"]) for each in admin.describe_topics([topic])]
    finally:
        admin.close()


def test_data_and_port_outlive_a_kill(needs_kafka):
    broker = KafkaBroker()
    try:
        broker.start()
        address, topic = broker.address, fresh("kept")
        admin = KafkaAdminClient(bootstrap_servers=address)
        admin.create_topics({topic: {"num_partitions": 3, "replication_factor": 1}})
        admin.close()
        broker.kill()
        broker.start()
        assert broker.address == address
        assert partitions(address, topic) == [3]
    finally:
        broker.close()


def test_every_test_gets_names_of_its_own():
    names = {fresh("payments") for _ in range(100)}
    assert len(names) == 100
    assert all(name.isidentifier() for name in names)
