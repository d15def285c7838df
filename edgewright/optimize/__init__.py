"""Compression techniques on the torch graph: one verb, `apply`; the parameters' type selects the technique.

Each technique is a pure function in a file of its own. They import torch, so they run in a child process.
"""

from edgewright.artifact import Artifact, Dataset, Format, LayerNoise
from edgewright.child import run_in_child
from edgewright.errors import UnsupportedError
from edgewright.recipe import AnyTechnique, Quantize
from edgewright.store import Store

__all__ = ["apply", "layer_noise"]

_TIMEOUT_S = 6 * 3600.0


def apply(graph: Artifact, technique: AnyTechnique, dataset: Dataset, store: Store) -> Artifact:
    """The network after one technique, as a new artifact whose parent is ``graph``.

    Raises:
        UnsupportedError: the technique has no path for this network or this data; the message says which and why.
    """
    if isinstance(technique, Quantize):
        raise UnsupportedError("quantize is done by the platform's own quantizer, when the model is exported")
    with store.workspace() as scratch:
        made = scratch / "network.safetensors"
        run_in_child(
            "edgewright.optimize.carry_out:carry_out",
            {
                "graph": str(graph.path),
                "technique": technique.model_dump(mode="json"),
                "dataset": str(dataset.artifact.path),
                "made": str(made),
            },
            what=f"{technique.technique} on {graph.path.name}",
            timeout_s=_TIMEOUT_S,
            writes=[scratch],
        )
        return store.put(made, Format.TORCH_GRAPH, parent=graph.digest)


def layer_noise(graph: Artifact, params: Quantize, dataset: Dataset) -> tuple[LayerNoise, ...]:
    """The sensitivity of each layer to static int8, on training rows, the most sensitive first.

    Raises:
        UnsupportedError: the model's inputs are several, or not float32.
    """
    arguments = {
        "graph": str(graph.path),
        "dataset": str(dataset.artifact.path),
        "calibration": params.calibration,
        "percentile": params.percentile,
    }
    ran = run_in_child("edgewright.optimize.carry_out:layer_noise", arguments, what="measuring each layer in int8")
    return tuple(LayerNoise(layer=name, signal_to_noise_db=ratio) for name, ratio in ran.value)
