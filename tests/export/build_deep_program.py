"""Convert a program that is a chain deeper than Python's stack in half precision; say in which type it computes.

Usage: ``python -m tests.export.build_deep_program fp32|int32``, the type that the end of the chain is cast to.
"""

import sys

import numpy as np

from edgewright.export.coreml import coremltools_alone, half_but

_STEPS = 700


def main(ends_as: str) -> None:
    ct = coremltools_alone()
    from coremltools.converters.mil import Builder

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 4))], opset_version=ct.target.iOS16)
    def chain(x):
        for _ in range(_STEPS):
            x = Builder.add(x=Builder.abs(x=x), y=np.float32(0.5))
        return Builder.cast(x=x, dtype=ends_as)

    program = ct.convert(
        chain,
        convert_to="milinternal",
        compute_precision=half_but(ct, frozenset()),
        minimum_deployment_target=ct.target.iOS16,
    )
    operators = program.functions["main"].operations
    print(*sorted({o.x.dtype.__type_info__().name for o in operators if o.op_type == "abs"}))


if __name__ == "__main__":
    main(sys.argv[1])
