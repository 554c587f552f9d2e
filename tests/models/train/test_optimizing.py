"""What both trainings, of networks and of what is cut or learned from them, do in the same way."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from models.train.optimizing import adamw, follow, set_rate


class Looked(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(4, 3))
        self.matrix = nn.Linear(3, 2)


def test_matrices_decay_and_what_is_looked_up_does_not():
    network = Looked()
    optimizer = adamw(network, 0.5)
    decayed, others = optimizer.param_groups
    assert decayed["params"] == [network.matrix.weight]
    assert {id(each) for each in others["params"]} == {id(network.table), id(network.matrix.bias)}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)


def test_the_rate_rises_and_falls_to_nothing():
    optimizer = adamw(Looked(), 0.0)
    rates = []
    for step in range(101):
        set_rate(optimizer, 2.0, step, 100, warmup_share=0.2)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:20] == pytest.approx([0.1 * each for each in range(1, 21)])  # to the highest, in 20 of 100 steps
    assert rates[60] == pytest.approx(1.0)  # half of the way down
    assert rates[100] == pytest.approx(0.0)
    assert all(later < earlier for earlier, later in pairwise(rates[20:]))


def test_averages_begin_as_the_mean_and_follow_then():
    network, values = nn.Linear(1, 1, bias=False), [3.0, 5.0, 10.0, 2.0]
    average = {"weight": torch.zeros(1, 1)}
    for step, value in enumerate(values):
        network.weight.data.fill_(value)
        follow(average, network, 0.7, step)
    mean = sum(values[:3]) / 3
    assert float(average["weight"]) == pytest.approx(0.7 * mean + 0.3 * values[3])  # 1 / 4 is less than 0.3
