"""What a diagnosis found, as values; no ML framework is imported here."""

import math

from edgewright.value import Value

__all__ = ["Comparison", "Culprit", "Diagnosis", "LayerDifference", "OutputDifference", "Place"]


class Place(Value):
    """An operator of the file: its kind, the value that it gives, its own name where the format has such names, and
    whether it only moves or casts that value."""

    kind: str
    value: str
    node: str = ""
    moves: bool = False

    def __str__(self) -> str:
        return f"{self.kind} '{self.value}'"


class Culprit(Value):
    """The operator that is wrong, and the layer of the reference that it should compute.

    ``others`` are further operators that take part in the layer, ``layers`` further layers that the operator takes
    part in: what cannot be told apart. ``snr_db`` and ``largest`` tell how far the result is off when the inputs are
    the reference's. ``verified``: with the reference's value in its place the file is right from there on.
    ``segment`` are all operators from the last right value to that place, ``before`` those that give what it reads.
    """

    operator: Place
    layer: str
    kind: str
    dtype: str
    snr_db: float
    largest: float
    verified: bool
    others: tuple[Place, ...] = ()
    layers: tuple[str, ...] = ()
    segment: tuple[Place, ...] = ()
    before: tuple[Place, ...] = ()
    failure: str = ""

    def sentence(self) -> str:
        """One line: which operator, which layer, how far off."""
        layer = f"layer '{self.layer}' ({self.kind})"
        if self.layers:
            layer += f", with {', '.join(repr(name) for name in self.layers)} in the same operator"
        if self.failure:
            return f"{layer}: {self.failure}"
        if not self.verified:
            return f"{layer}, or one after it: from operator {self.operator} on nothing agrees any more"
        return f"{layer}, operator {self.operator}: {self.cause()}"

    def cause(self) -> str:
        """How far its result is off, or what else is the matter."""
        if self.failure:
            return self.failure
        if self.snr_db == -math.inf:
            return "from the model's own values its result is NaN, infinite or not there"
        off = f"{self.largest:.2g} of its largest magnitude ({self.snr_db:.1f} dB)"
        return f"from the model's own values its result is off by {off}"


class LayerDifference(Value):
    """One value of the reference and the one of the file that it is; ``operator`` is empty where a fusion swallowed it.

    ``snr_db`` and ``largest`` are of the file as it runs, ``own_…`` of the operator alone, on the reference's inputs.
    """

    layer: str
    kind: str
    operator: str
    value: str
    dtype: str
    snr_db: float
    largest: float
    own_snr_db: float
    own_largest: float


class OutputDifference(Value):
    """An output of the model: computed operator by operator, and by the runtime as a whole."""

    name: str
    snr_db: float
    largest: float
    whole_snr_db: float
    whole_largest: float


class Diagnosis(Value):
    """Layers in order of computation, culprits likewise: the first is where the two part.

    ``dtype`` is the narrowest that anything in the file is stored in; ``rows`` were compared.
    """

    dtype: str
    layers: tuple[LayerDifference, ...]
    culprits: tuple[Culprit, ...]
    outputs: tuple[OutputDifference, ...]
    rows: int

    @property
    def weakest(self) -> LayerDifference | None:
        """The layer whose own operator loses most."""
        measured_layers = [layer for layer in self.layers if layer.value and not math.isnan(layer.own_snr_db)]
        return min(measured_layers, key=lambda layer: layer.own_snr_db, default=None)

    @property
    def is_fusion(self) -> bool:
        """Whether the file is right operator by operator, and the runtime's own fusions are not."""
        # Beyond parity's limit for float32, and beyond what the operators' own rounding adds up to.
        return not self.culprits and any(o.whole_largest > max(1e-4, 10 * o.largest) for o in self.outputs)

    def sentence(self) -> str:
        """Where the two part, in one line."""
        if self.culprits:
            return f"they diverge at {self.culprits[0].sentence()}"
        if self.is_fusion:
            return "each operator by itself agrees, so what the runtime fuses or reorders as it loads the file does not"
        worst = self.weakest
        if worst is None:
            return "no value of the one was found in the other"
        return (
            f"no operator is wrong by itself: rounding adds up, most of it at layer '{worst.layer}' ({worst.kind}), "
            f"operator {worst.operator} in {worst.dtype}: {worst.own_snr_db:.1f} dB of its own"
        )


class Comparison(Value):
    """A file against its model on ``rows`` rows: whether it answers alike (``holds``), by which ``limit``, how far each
    output is off, and, on the rows that are farthest off, layer by layer."""

    holds: bool
    limit: str
    rows: int
    outputs: dict[str, str]
    diagnosis: Diagnosis
