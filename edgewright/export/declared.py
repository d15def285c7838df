"""What an exported file declares, and the rule that it must answer as the model it was made of."""

from functools import partial
from typing import TYPE_CHECKING

from edgewright.artifact import Artifact, Dataset, ImportedModel, Precision
from edgewright.child import deferred
from edgewright.errors import CrashError, DisagreementError, UnsupportedError
from edgewright.export.converter import convert_in_child
from edgewright.export.declaration import Checked, Declared, File

if TYPE_CHECKING:
    from edgewright.export.parity_check import check
else:
    check = deferred("edgewright.export.parity_check:check")

__all__ = ["MIN_SNR_DB", "PARITY_LIMITS", "checked"]

# Largest difference over the output's largest magnitude.
PARITY_LIMITS = {Precision.FLOAT32: 1e-4, Precision.FLOAT16: 1e-2}
# Fewer bits are judged by the accuracy on the test rows; but at 0 dB an output holds as much error as signal: zeros
# would be as near to the model, and no accuracy needs to be measured.
MIN_SNR_DB = 0.0


def checked(
    model: ImportedModel,
    exported: Artifact,
    dataset: Dataset,
    precision: Precision,
    *,
    is_judged: bool = True,
    min_snr_db: float = MIN_SNR_DB,
) -> Declared:
    """Read an exported file's tensors, and compare the file with its model on real rows.

    The reference is what intake compared with the source in its own framework; where the network was changed since,
    it is the changed torch graph; where intake made nothing of the source, its own answers. Nothing is compared
    unless it ``is_judged``.

    Raises:
        DisagreementError: the file's outputs are farther off than `PARITY_LIMITS`, or, of fewer bits than they name,
            not above ``min_snr_db``; names the first operator and layer that are wrong.
        UnsupportedError: the runtime crashes on it.
    """
    reference = model.inside or dataset.artifact
    job = partial(
        check,
        reference=File(reference.path, reference.format),
        exported=File(exported.path, exported.format),
        dataset=dataset.artifact.path,
        inputs=[spec.name for spec in model.inputs],
        outputs=[spec.name for spec in model.outputs],
        # Either limit alone: where parity has none for the precision, the error's power has.
        limit=PARITY_LIMITS.get(precision) if is_judged else None,
        min_snr_db=min_snr_db if is_judged and precision not in PARITY_LIMITS else None,
        has_thresholds=model.float32_only,
    )
    try:
        answer = convert_in_child(job, returns=Checked, what=f"checking {exported.path.name}").value
    except CrashError as e:
        raise UnsupportedError(
            f"{exported.path.name}: the platform's own runtime crashes on this file in {precision} "
            f"({e.signal}), and would on a device; another precision or platform may do"
        ) from e
    if answer.disagreement is not None:
        raise DisagreementError(answer.disagreement.said, exported, answer.disagreement.diagnosis)
    return answer.declared
