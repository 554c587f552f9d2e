"""What a process tells Prometheus about itself."""
