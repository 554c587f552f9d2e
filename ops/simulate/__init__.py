"""Made-up payments to demonstrate, test and measure with: `pelton simulate` and the benchmark's workload.

Hard enough to be worth a model and easy enough to learn: see tests/ops/simulate/test_difficulty.py.
"""

from ops.simulate.settings import SimulationError, SimulationSettings, SimulationSummary
from ops.simulate.simulator import simulate
from ops.simulate.workload import card_features_stream

__all__ = ["SimulationError", "SimulationSettings", "SimulationSummary", "card_features_stream", "simulate"]
