"""Graphs that are deeper than Python's stack: long chains, as a recurrent layer of many steps is one."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from edgewright.export.litert_graph import graph_for_litert
from edgewright.intake.program_graph import graph_of_program

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's exporter


class Expanded(nn.Module):
    def forward(self, x):
        y = x.expand(4, -1)
        for _ in range(1200):
            y = y * 0.5
        return y


@pytest.mark.parametrize(("ends_as", "computed_in"), [("fp32", "fp16"), ("int32", "fp32")])
def test_a_long_chain_is_half_precision_on_ios_unless_whole_numbers_are_made_of_it(ends_as, computed_in) -> None:
    command = [sys.executable, "-m", "tests.export.build_deep_program", ends_as]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [computed_in]


def test_a_long_chain_behind_an_expansion_is_followed_to_its_end() -> None:
    rows = torch.ones(1, 3)
    graph = graph_for_litert(graph_of_program(torch.export.export(Expanded(), (rows,))), (rows,))
    assert graph(rows).shape == (4, 3)
