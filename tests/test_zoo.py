"""The zoo's rules and its page; no conversion runs here."""

import numpy as np
import pytest

from benchmarks import zoo_child
from benchmarks.zoo import interleaved
from benchmarks.zoo_cells import (
    DB_FLOOR,
    DB_LIMIT,
    Column,
    OutputParity,
    Record,
    decibel_limit,
    figures,
    is_raw,
    outcome_of,
    parity_of,
)
from benchmarks.zoo_models import FAMILIES, roster
from benchmarks.zoo_page import page
from benchmarks.zoo_recipes import TEST_ROWS, mask, rows_of, tokens, write_rows
from benchmarks.zoo_report import figures_by_tool, outcomes_of
from benchmarks.zoo_source import inputs_of, split_rows

FLOAT32, INT8 = Column("android", "float32"), Column("android", "int8")


def made(column=FLOAT32, *parity, tool="edgewright", model="own-a", **fields):
    found = parity or (OutputParity(1e-6, 60.0),)
    return Record(model=model, family="own", tool=tool, column=column, status="made", parity=found, **fields)


def failed(message="no path for 'Foo'", *, raw=False, status="error", model="own-a"):
    return Record(model, "own", "edgewright", FLOAT32, status, stage="export", message=message, raw=raw)


@pytest.mark.parametrize(("relative", "outcome"), [(1e-4, "green"), (1.1e-4, "wrong"), (None, "wrong"), (0.0, "green")])
def test_outcome_float32_is_judged_by_the_largest_difference(relative, outcome):
    assert outcome_of(made(FLOAT32, OutputParity(relative, 80.0))) == outcome


@pytest.mark.parametrize(
    ("relative", "rounding", "outcome"),
    [(1.6e-4, 8e-5, "green"), (2.5e-4, 8e-5, "wrong"), (1.1e-4, 2e-5, "wrong"), (1.1e-4, 4e-4, "wrong")],
)
def test_outcome_float32_beyond_the_limit_is_judged_by_the_source_s_own_rounding(relative, rounding, outcome):
    record = made(FLOAT32, OutputParity(relative, 80.0), source_rounding=rounding)
    assert outcome_of(record) == outcome
    assert Record.from_json(record.to_json()) == record


def test_outcome_is_that_of_the_worst_output():
    assert outcome_of(made(FLOAT32, OutputParity(1e-7, 99.0), OutputParity(0.2, 9.0))) == "wrong"
    assert outcome_of(made(INT8, OutputParity(0.1, 30.0), OutputParity(0.3, 4.0))) == "wrong"


def test_outcome_of_a_file_with_other_outputs_is_wrong():
    assert outcome_of(made(FLOAT32, mismatch="1 outputs, the source has 2")) == "wrong"


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (failed(), "refused"),
        (failed("RuntimeError: shape", raw=True), "crashed"),
        (failed("ended by SIGSEGV", status="died"), "crashed"),
    ],
)
def test_outcome_without_a_file(record, outcome):
    assert outcome_of(record) == outcome


@pytest.mark.parametrize(("own", "limit"), [(None, DB_LIMIT), (30.0, DB_LIMIT), (8.0, 7.0), (1.0, DB_FLOOR)])
def test_decibel_limit_is_the_own_quantizers_where_that_is_less(own, limit):
    assert decibel_limit(own) == limit


def test_outcome_int8_as_good_as_the_own_quantizer_is_green():
    noisy = made(INT8, OutputParity(0.5, 7.5))
    assert outcome_of(noisy) == "wrong"
    assert outcome_of(noisy, 8.0) == "green"


@pytest.mark.parametrize(
    ("is_edgewright", "message", "notes", "raw"),
    [
        (True, "no path for the operator 'aten.foo' on ios", [], False),
        (True, "taking in m: RuntimeError: shape '[5, 64]' is invalid", [], True),
        (True, "converting m: the child process was ended by SIGSEGV", [], True),
        (True, "converting m: no result after 600 s; stopped", [], True),
        (True, "converting m: KeyError: 'x'", [], True),
        (True, "a clear line", ["Traceback (most recent call last)"], True),
        (False, "ValueError: x", [], True),
    ],
)
def test_an_error_that_passes_a_foreign_one_on_is_raw(is_edgewright, message, notes, raw):
    assert is_raw(is_edgewright, message, notes) is raw


def test_parity_measures_difference_and_noise():
    found = parity_of(np.array([[3.0, -4.0]]), np.array([[3.0, -3.6]]))
    assert found.relative == pytest.approx(0.1)
    assert found.decibels == pytest.approx(10 * np.log10(25 / 0.16))


def test_parity_of_equal_answers_is_infinite_even_where_they_are_infinite():
    same = np.array([1.0, -np.inf, np.nan])
    assert parity_of(same, same.copy()) == OutputParity(0.0, None)


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_parity_of_an_answer_that_is_not_finite(lost):
    found = parity_of(np.array([1.0, 2.0]), np.array([1.0, lost]))
    assert found == OutputParity(None, None)
    assert outcome_of(made(INT8, found)) == "wrong"


def test_a_peers_file_that_our_evaluator_cannot_run_is_unchecked():
    record = Record("own-a", "own", "coremltools", Column("ios", "float32"), "unchecked", message="operator 'foo'")
    assert outcome_of(record) == "unchecked"
    assert figures_by_tool(outcomes_of([record]))["coremltools"]["unchecked"] == 1


def test_record_survives_json():
    record = made(INT8, OutputParity(0.1, None), notes=("a note",), seconds=1.5)
    assert Record.from_json(record.to_json()) == record


def test_figures_add_up():
    assert figures(["green", "green", "wrong", "refused"]) == {
        "cells": 4, "green": 2, "refused": 1, "crashed": 0, "wrong": 1, "unchecked": 0,
    }  # fmt: skip


def test_outcomes_take_the_own_quantizer_of_the_same_model_and_platform():
    ours = made(INT8, OutputParity(0.5, 7.0))
    theirs = made(INT8, OutputParity(0.5, 7.5), tool="ai-edge-quantizer")
    elsewhere = made(INT8, OutputParity(0.5, 7.0), model="own-b")
    found = outcomes_of([ours, theirs, elsewhere])
    assert found["own-a", "edgewright", "android int8"] == "green"
    assert found["own-b", "edgewright", "android int8"] == "wrong"


def test_peers_are_compared_on_the_same_models():
    records = [made(), made(model="own-b"), made(tool="litert-torch", model="own-b")]
    found = figures_by_tool(outcomes_of(records))
    assert found["edgewright"]["android float32"]["cells"] == 2
    assert found["litert-torch"]["ours_on_the_same"]["cells"] == 1


def result_of(*records):
    outcomes = outcomes_of(records)
    return {
        "date": "2026-01-01",
        "architectures": {"in_the_roster": 9, "run": len(records)},
        "of_earlier_code": 4,
        "processor": "a processor",
        "versions": {"torch": "1"},
        "rules": {
            "float32_relative": 1e-4,
            "float32_source_roundings": 3.0,
            "float32_relative_beside_rounding": 1e-3,
            "int8_decibels": 10.0,
            "int8_decibels_below_own_quantizer": 1.0,
            "int8_decibels_floor": 3.0,
        },
        "figures": figures_by_tool(outcomes),
        "not_exportable": {"torchvision-raft_small": "UserError: Constraints violated (batch)!"},
        "models": {r.model: {"family": r.family} for r in records},
        "records": [
            {
                "model": r.model,
                "tool": r.tool,
                "column": str(r.column),
                "outcome": outcomes[r.model, r.tool, str(r.column)],
                "relative": r.worst_relative if r.status == "made" else None,
                "decibels": r.least_decibels if r.status == "made" else None,
                "size_bytes": r.size_bytes,
                "seconds": r.seconds,
                "message": r.message,
            }
            for r in records
        ],
    }


def test_page_has_a_row_a_model_and_every_reason():
    text = page(
        result_of(
            made(FLOAT32, OutputParity(2e-6, 90.0), size_bytes=12_000, seconds=3.0),
            made(FLOAT32, OutputParity(3e-1, 9.0), tool="litert-torch"),
            failed("no path for the operator 'a|b' <x>", model="own-b"),
        )
    )
    assert "| own-a | 2e-06 | 12 kB | 3 | **wrong** 3e-01 |" in text
    assert "- own-b, refused: no path for the operator 'a\\|b' \\<x>" in text
    assert "- torchvision-raft_small: UserError" in text
    assert "- 4 of our cells are of earlier code" in text
    assert "| litert-torch | android float32 | 1 | 0 (0.0%) | 0 | 0 | 1 | 0 | 1 (100.0%) |" in text


def test_roster_holds_every_family_and_no_name_twice():
    names = [recipe.name for recipe in roster()]
    assert len(names) == len(set(names)) > 100
    assert {recipe.family for recipe in roster()} == set(FAMILIES)
    assert all(recipe.name.startswith(f"{recipe.family}-") for recipe in roster())


def test_padding_of_tokens_is_where_the_mask_has_zeros():
    generator = np.random.default_rng(0)
    ids, kept = tokens(8, 50)(generator, 6), mask(8)(generator, 6)
    np.testing.assert_array_equal(ids == 0, kept == 0)
    assert 0 < (kept == 0).sum() < kept.size / 2


def test_rows_are_written_as_the_intake_reads_them(tmp_path):
    recipe = next(r for r in roster() if r.name == "own-table_and_image")
    write_rows(recipe, tmp_path / "data.npz")
    assert list(split_rows(tmp_path / "data.npz", "test")) == ["picture", "table"]
    training = split_rows(tmp_path / "data.npz", "train")["table"]
    whole = rows_of(recipe, len(training) + TEST_ROWS)["table"]
    np.testing.assert_array_equal(split_rows(tmp_path / "data.npz", "test")["table"], whole[len(training) :])


def test_inputs_are_matched_by_name_or_else_by_place():
    rows = {"b": np.ones((1, 2)), "a": np.zeros((1, 3))}
    assert inputs_of(rows, ["a", "b"], ["int32", "int32"])["a"].shape == (1, 3)
    assert inputs_of(rows, ["first", "second"], ["int32", "float32"])["first"].shape == (1, 2)


@pytest.mark.parametrize(
    ("target", "arguments", "kind", "says"),
    [
        ("os:abort", {}, "died", "ended by SIGABRT"),
        ("os:_exit", {"status": 3}, "died", "exit code 3"),
        ("subprocess:run", {"args": ["sleep", "60"]}, "died", "no result after 2 s"),
        ("json:loads", {"s": "{"}, "error", "JSONDecodeError: "),
        ("benchmarks.zoo_cells:digest_of_parts", {}, "value", ""),
    ],
)
def test_a_step_ends_as_it_ended(target, arguments, kind, says):
    ended = zoo_child.run(target, arguments, limit_s=2 if target == "subprocess:run" else 60, forked=False)
    assert ended.kind == kind
    assert says in ended.message
    assert not ended.is_edgewright


def test_an_interleaved_roster_begins_with_every_place():
    names = interleaved([recipe.name for recipe in roster()])
    assert len(names) == len(set(names)) == len(roster())
    assert {name.partition("-")[0] for name in names[:40]} == set(FAMILIES)
