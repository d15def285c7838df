"""Compression techniques on the torch graph: one verb, `apply`; the parameters' type selects the technique.

Each technique is a pure function in a file of its own. They import torch, so they run in a child process.
"""

from functools import partial
from typing import TYPE_CHECKING

from edgewright.artifact import Artifact, Dataset, Format, LayerNoise
from edgewright.child import deferred, run_in_child
from edgewright.errors import UnsupportedError
from edgewright.recipe import AnyTechnique, Quantize
from edgewright.store import Store

if TYPE_CHECKING:
    from edgewright.optimize.child import apply_to_file
    from edgewright.optimize.child import layer_noise as noise_of_layers
else:
    apply_to_file = deferred("edgewright.optimize.child:apply_to_file")
    noise_of_layers = deferred("edgewright.optimize.child:layer_noise")

__all__ = ["apply", "layer_noise"]

# Training on a CPU takes hours; a child that hangs must end all the same.
_TIMEOUT_S = 6 * 3600.0


def apply(graph: Artifact, technique: AnyTechnique, dataset: Dataset, store: Store) -> Artifact:
    """The network after one technique, as a new artifact whose parent is ``graph``.

    Raises:
        UnsupportedError: the technique has no path for this network or this data; the message says which and why.
    """
    if isinstance(technique, Quantize):
        raise UnsupportedError("quantize is done by the platform's own quantizer, when the model is exported")
    with store.workspace() as scratch:
        destination = scratch / "network.safetensors"
        # The graph is made of a stranger's file: the child may write into this workspace alone.
        run_in_child(
            partial(apply_to_file, graph.path, technique, dataset.artifact.path, destination),
            what=f"{technique.technique} on {graph.path.name}",
            timeout_s=_TIMEOUT_S,
            writes=[scratch],
        )
        return store.put(destination, Format.TORCH_GRAPH, parent=graph.digest)


def layer_noise(graph: Artifact, params: Quantize, dataset: Dataset) -> tuple[LayerNoise, ...]:
    """The sensitivity of each layer to static int8, on training rows, the most sensitive first.

    Raises:
        UnsupportedError: the model's inputs are several, or not float32.
    """
    job = partial(noise_of_layers, graph.path, dataset.artifact.path, params.calibration, params.percentile)
    return tuple(run_in_child(job, returns=list[LayerNoise], what="measuring each layer in int8").value)
