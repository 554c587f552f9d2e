"""The sparse mixture of experts for event features. `settings`, `tokens` and `bins` need numpy, the rest torch."""
