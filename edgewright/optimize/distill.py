"""Distillation: a student learns the teacher's softened answers (Hinton et al., arXiv 1503.02531) and, where asked, its
features. The student is derived from the teacher by structured pruning or by width, or is a user's own network. Runs in
a child process: imports torch.
"""

import copy
import importlib

import torch
from torch import fx, nn

from edgewright.errors import InputError, UnsupportedError
from edgewright.optimize.hints import Hints, matched_layers
from edgewright.optimize.prune_channels import narrowed, prune_channels
from edgewright.optimize.rows import TechniqueRows
from edgewright.optimize.training import TrainingRows, fit
from edgewright.recipe import Distill, PruneChannels

__all__ = ["apply", "distill"]

_EXAMPLE_ROWS = 2  # torch.export takes a batch of 1 for a constant


def apply(model: fx.GraphModule, params: Distill, rows: TechniqueRows) -> fx.GraphModule:
    """See `distill`."""
    return distill(model, params, rows.training())


def distill(model: fx.GraphModule, params: Distill, rows: TrainingRows | None) -> fx.GraphModule:
    """A trained student of ``model``, which stays as it is.

    Raises:
        UnsupportedError: no training rows, or the student cannot be derived, or does not answer as the teacher does.
        InputError: the factory cannot be called, or returns something else than a module.
    """
    if rows is None:
        raise UnsupportedError("distill: needs training rows; give data with a training split")
    student = _student(model, params, rows)
    hints = None
    if params.hints:
        example = rows.inputs[:1]
        pairs = params.hint_layers or matched_layers(model, student, example)
        hints = Hints(model, student, pairs, example, params.hints, params.training.seed)
    fit(
        student,
        rows,
        params.training,
        teacher=model,
        penalty=hints,
        extra=hints.parameters if hints else None,
    )
    # The hooks would hold the last batch's features for as long as the student lives.
    if hints:
        hints.close()
    return student


def _student(model: fx.GraphModule, params: Distill, rows: TrainingRows) -> fx.GraphModule:
    if params.student == "width":
        return narrowed(model, params.width, rows.inputs[:1])
    if params.student != "pruned":
        return _made_by(params.student, rows.inputs[:_EXAMPLE_ROWS], model, params.training.seed)
    if not params.ratio:
        return copy.deepcopy(model)
    # In one step and untrained: the distillation that follows is its training.
    return prune_channels(model, PruneChannels(ratio=params.ratio, importance="taylor", steps=1, training=None), rows)


def _made_by(factory: str, example: torch.Tensor, teacher: nn.Module, seed: int) -> fx.GraphModule:
    """The user's module, on the same way that a source model takes: the graph of its torch.export program."""
    from edgewright.intake.program_graph import graph_of_program

    module, _, function = factory.partition(":")
    # The factory draws the student's first weights.
    torch.manual_seed(seed)
    try:
        student = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as e:
        raise InputError(f"distill: student {factory} cannot be called: {str(e).splitlines()[0]}") from e
    if not isinstance(student, nn.Module):
        raise InputError(f"distill: student {factory} returned a {type(student).__name__}, not a torch.nn.Module")
    # Before the training, which takes hours and would fail in its first loss.
    with torch.no_grad():
        try:
            answers = student.eval()(example)
        except (RuntimeError, ValueError, TypeError) as e:
            raise InputError(
                f"distill: student {factory} does not take an input of {tuple(example.shape)}: {str(e).splitlines()[0]}"
            ) from e
        wanted = teacher.eval()(example)
    if not isinstance(answers, torch.Tensor) or answers.shape != wanted.shape:
        shape = tuple(answers.shape) if isinstance(answers, torch.Tensor) else type(answers).__name__
        raise InputError(f"distill: student {factory} answers with {shape}; the model with {tuple(wanted.shape)}")
    # Batches of any size, as the last one of an epoch is shorter.
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    # A copy: the program would hold the whole storage of which this is a slice, all training rows.
    program = torch.export.export(student, (example.clone(),), dynamic_shapes=({0: batch},))
    return graph_of_program(program)
