"""Grafana's dashboards as typed code: what they show, how they are built, how they get there."""
