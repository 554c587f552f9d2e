"""Networks, learners, calibration and the registry. Models see arrays, never records."""
