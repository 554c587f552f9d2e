"""Runs an app on Kafka."""
