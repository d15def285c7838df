"""Files of YAML as people mistype them, and as somebody writes them who wants a crash: one line, at once."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.data import DataSpec, load_data_spec
from edgewright.errors import InputError
from edgewright.profile import load_device
from edgewright.recipe import load_recipe

_LIST_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
_MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_LIST_BOMB, "line 1: more than 50000 values, counting what aliases stand for"),
        (_MERGE_BOMB, "more than 50000 values, counting what aliases stand for"),
        (f"labels: [{'x, ' * 120_000}]", "line 1: more than 50000 values"),
        ("&a\nname: *a\n", "nested deeper than 32"),
        ("name: &a [*a]", "line 1: nested deeper than 32"),
        ("path: " + "[" * 20_000, "line 1: nested deeper than 32"),
        ("path: " + "{a: " * 3_000, "line 1: nested deeper than 32"),
        ("path: x\npath: y", "line 2: key 'path' stands twice"),
        ("path: x\nna_values: {a: b, a: c}", "line 2: key 'a' stands twice"),
        ("path: x\ntarget: 2020-99-99", "line 2: month must be in 1..12"),
        ("path: x\nseed: " + "9" * 5_000, "line 2: an integer of 5000 digits"),
        ("path: x\nseed: 0x" + "f" * 5_000, "line 2: an integer of 5002 digits"),
        ("path: x\nlabels: [010, 020]", "line 2: 010 is another number in YAML: put a text into quotes"),
        ("path: x\nlabels: [12:30]", "line 2: 12:30 is another number in YAML"),
        ("path: x\nseed: 1_000", "line 2: 1_000 is another number in YAML"),
        ("path: x\nscale: 12:30.5", "line 2: 12:30.5 is another number in YAML"),
        ("path: x\nscale: 1_000.5", "line 2: 1_000.5 is another number in YAML"),
        ("path: x\ntarget: !!bool maybe", "line 2: 'maybe' cannot be read as bool"),
        ("path: x\nscale: !!float ''", "line 2: '' cannot be read as float"),
        ("path: x\nseed: !!int ''", "line 2: "),
        ("path: x\ntarget: !!timestamp abc", "line 2: 'abc' cannot be read as timestamp"),
        ("path: x\ntarget: !!binary é", "line 2: "),
        ("path: x\nseed: -1", "seed = -1: input should be greater than or equal to 0"),
        ("path: x\nscale: .inf", "scale = inf: input should be a finite number"),
        ("path: x\nmean: 1" + "0" * 400, "mean = 1000"),
        ("path: x\ntest_fraction: " + "y" * 100_000, "yyy…: input should be a valid number"),
        ("name: !!python/object/apply:os.abort []", "line 1: could not determine a constructor for the tag"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("x" * (2 << 20), "longer than 1048576 bytes"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_wrong_is_one_short_line_at_once(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        load_data_spec(tmp_path / "data.yaml")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 20  # the slowest is 2 s of the parser, for 50,000 values


@pytest.mark.parametrize("load", [load_device, load_recipe, lambda path: load_data_spec(Path(path))])
@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_read(
    tmp_path: Path, load: Callable[[str], object], put: Callable[[Path], object]
) -> None:
    put(tmp_path / "x.yaml")
    with pytest.raises(InputError, match="not a plain file"):
        load(str(tmp_path / "x.yaml"))


def test_aliases_and_numbers_that_mean_what_they_say_are_read(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(
        "path: x\ntarget: &t age\nna_values: {age: &n [0, -1], income: *n}\nseed: 0x1F\nlabels: ['010', 7, +3]\n"
    )
    spec = load_data_spec(tmp_path / "d.yaml")
    assert (spec.target, spec.seed, spec.labels) == ("age", 31, ("010", "7", "3"))
    assert spec.na_values == {"age": ("0", "-1"), "income": ("0", "-1")}


def test_numbers_that_stand_for_texts_are_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(
        "path: x\nscale: 1.50\nlabels: [1.10, 1.1, +2.50, 100., .5, -0x1F, 7]\nna_values: [9.90, -1]\n"
    )
    spec = load_data_spec(tmp_path / "d.yaml")
    assert spec.labels == ("1.10", "1.1", "2.50", "100.", ".5", "-0x1F", "7")
    assert spec.na_values == ("9.90", "-1")
    assert spec.scale == 1.5
    assert DataSpec.model_validate_json(spec.model_dump_json()) == spec
