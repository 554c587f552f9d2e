"""Apache Kafka: settings, administration, the log on it, and the transport of the worker."""
