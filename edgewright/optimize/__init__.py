"""Compression techniques on the torch graph: one verb, `apply`; the parameters' type selects the technique.

Each technique is a pure function in a file of its own. They import torch, so they run in a child process.
"""

from edgewright.artifact import Artifact, Dataset, Format
from edgewright.child import run_in_child
from edgewright.errors import UnsupportedError
from edgewright.recipe import AnyTechnique, Quantize
from edgewright.store import Store

__all__ = ["apply"]

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
        )
        return store.put(made, Format.TORCH_GRAPH, parent=graph.digest)
