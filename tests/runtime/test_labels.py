"""A truth is the model's label by number, too: what an application keeps as 10.0 is class 10."""

import numpy as np
import pytest

from edgewright_runtime.bundle.labels import is_label


@pytest.mark.parametrize(
    ("truth", "label"),
    [("yes", "yes"), (10, "10"), (10.0, "10"), ("10.0", "10"), (np.int64(3), "3"), (True, "1"), (True, "True"),
     (-1, "-1"), (10, "10.0")],
)  # fmt: skip
def test_the_same_class_however_it_is_written(truth, label):
    assert is_label(truth, label)


@pytest.mark.parametrize(
    ("truth", "label"),
    [("no", "yes"), ("1", "01"), (1, "2"), ("2.0", "10"), ("nan", "nan1"), (None, "None1"), ([1], "1"), (10**400, "1")],
)
def test_other_classes(truth, label):
    assert not is_label(truth, label)
