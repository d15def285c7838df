"""Where int8 leaves noise, the layers that bring most of it stay float, as few as it takes; what is left is refused."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from edgewright.artifact import CarriedNoise, ModelTask
from edgewright.errors import UnsupportedError
from edgewright.export import noisy_layers
from edgewright.export.declaration import Declared
from edgewright.export.kept_float import Converted
from edgewright.export.noisy_layers import Way, refuse_noise, with_noisy_layers_float

# By what they bring for each number of their weights; the last one alone would leave 20 dB.
LAYERS = [
    CarriedNoise(layer="stem", noise=0.5, numbers=10),
    CarriedNoise(layer="first", noise=0.3, numbers=20),
    CarriedNoise(layer="second", noise=0.1, numbers=70),
    CarriedNoise(layer="head", noise=0.01, numbers=900),
]
FLOAT_BYTES = 4000


@dataclass(frozen=True)
class File:
    way: Way
    size_bytes: int


def model(task: ModelTask = ModelTask.NONE, graph: object = True) -> SimpleNamespace:
    named = SimpleNamespace(path="graph") if graph else None
    return SimpleNamespace(name="m", graph=named, inputs=(), task=task)


def done(snr_db: float | None, **changed: object) -> Converted:
    return replace(Converted("original", Declared((), (), snr_db=snr_db)), **changed)


@pytest.fixture
def search(monkeypatch):
    """The search over files whose decibels ``measured`` gives for the layers in float and the mode."""

    def run(before, measured, *, size=1000, **choices):
        tried: list[Way] = []

        def make(way):
            tried.append(way)
            return File(way, size)

        def checked(model, artifact, dataset, precision, *, min_snr_db):
            return Declared((), (), snr_db=measured(len(artifact.way.layers), artifact.way.layers_only))

        monkeypatch.setattr(noisy_layers, "checked", checked)
        monkeypatch.setattr(noisy_layers, "convert_in_child", lambda job, **_: SimpleNamespace(value=LAYERS))
        dataset = SimpleNamespace(artifact=SimpleNamespace(path="data"))
        made = with_noisy_layers_float(before, model(), dataset, make, float_bytes=FLOAT_BYTES, **choices)
        return made, [(len(way.layers), way.layers_only) for way in tried]

    return run


@pytest.mark.parametrize("snr_db", [11.0, 25.0, None])
def test_what_has_little_noise_costs_no_further_file(search, snr_db):
    before = done(snr_db)
    assert search(before, lambda *_: 40.0) == (before, [])


def test_the_first_file_that_reaches_the_aim_is_taken_and_names_its_layers(search):
    made, tried = search(done(2.0), lambda count, only: 4.0 * count + 2 * only)
    assert tried == [(3, False)]
    assert made.float_layers == ("stem", "first", "second")
    (note,) = made.notes
    assert note.startswith("3 of 4 layers ('stem', 'first', 'second'; 10.0% of the weights) in float: 12.0 dB")
    assert note.endswith("2.0 dB without")


def test_then_layers_alone_are_in_8_bits_where_the_platform_has_that(search):
    made, tried = search(done(2.0), lambda count, only: 12.0 if only else 6.0, is_layers_only=False)
    assert tried == [(3, False), (3, True)]
    assert "and what is between layers in float: 12.0 dB" in made.notes[0]


def test_a_file_of_which_nothing_was_left_is_looked_for_too(search):
    made, _ = search(done(None, is_in_vain=True, notes=("lost",)), lambda *_: 12.0)
    assert not made.is_in_vain
    assert made.declared.snr_db == 12.0


def test_where_nothing_reaches_the_aim_the_best_is_taken_and_all_is_told(search):
    made, tried = search(done(2.0), lambda count, only: 5.0 if only else 4.0, is_layers_only=False)
    assert len(tried) == 2
    assert made.declared.snr_db == 5.0
    assert made.notes[-1].startswith("11 dB were not reached: ")


def test_a_file_that_is_hardly_smaller_than_float_is_not_taken(search):
    before = done(2.0)
    made, _ = search(before, lambda *_: 40.0, size=3300)
    assert made.artifact == "original"
    assert "82% of the size in float" in made.notes[-1]


@pytest.mark.parametrize(
    ("task", "snr_db", "refused"),
    [
        (ModelTask.NONE, 9.9, True),
        (ModelTask.NONE, 10.0, False),
        (ModelTask.CLASSIFICATION, 9.9, False),
        (ModelTask.CLASSIFICATION, 2.9, True),
        (ModelTask.NONE, None, False),
    ],
)
def test_noise_is_refused_where_no_accuracy_could_speak_for_it(task, snr_db, refused):
    if not refused:
        refuse_noise(done(snr_db), model(task))
        return
    with pytest.raises(UnsupportedError, match=rf"m: int8 has no benefit here: int8 leaves {snr_db} dB"):
        refuse_noise(done(snr_db), model(task))


def test_what_is_lost_whatever_stays_float_is_refused():
    with pytest.raises(UnsupportedError, match=r"leaves 0\.0 dB .*; tried: lost"):
        refuse_noise(done(None, is_in_vain=True, notes=("lost",)), model(ModelTask.CLASSIFICATION))
