"""Measure what was exported, and judge it. No ML framework is imported here.

`evaluate` says how right a file is, `measure` what it costs, `emulate` what it does on an Arm core; `judge` holds
figures against the budget, `benefit` says whether a technique was worth it, `source_doubts` whether the source was.
"""

from edgewright.codec.download import download_bytes, footprint
from edgewright.statistics.accuracy import compare_accuracy
from edgewright.validate.emulation import emulate, emulate_device
from edgewright.validate.energy import energy_of
from edgewright.validate.evaluation import evaluate
from edgewright.validate.performance import measure
from edgewright.validate.source_check import source_doubts
from edgewright.validate.verdict import benefit, judge, measurement_of

__all__ = [
    "benefit",
    "compare_accuracy",
    "download_bytes",
    "emulate",
    "emulate_device",
    "energy_of",
    "evaluate",
    "footprint",
    "judge",
    "measure",
    "measurement_of",
    "source_doubts",
]
