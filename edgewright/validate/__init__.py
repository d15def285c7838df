"""Measure what was exported, and judge it. No ML framework is imported here.

`evaluate` says how right a file is, `measure` what it costs, `judge` holds both against the budget, `benefit` says
whether a technique was worth it.
"""

from edgewright.validate.accuracy import compare_accuracy
from edgewright.validate.download import download_bytes
from edgewright.validate.evaluation import evaluate
from edgewright.validate.performance import measure
from edgewright.validate.verdict import benefit, judge, measurement_of

__all__ = ["benefit", "compare_accuracy", "download_bytes", "evaluate", "judge", "measure", "measurement_of"]
