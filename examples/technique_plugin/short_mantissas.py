"""Weights with fewer bits of mantissa: the same file on disk, and a smaller download."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from edgewright.recipe import Technique

if TYPE_CHECKING:
    from torch import Tensor, fx

    from edgewright.optimize.rows import TechniqueRows

__all__ = ["ShortMantissas", "apply"]


class ShortMantissas(Technique):
    """Round each weight to so many bits after its leading one."""

    title: ClassVar[str] = "Shortening mantissas"
    function: ClassVar[str] = "short_mantissas:apply"

    technique: Literal["short_mantissas"] = "short_mantissas"
    bits: int = Field(7, ge=1, le=22, description="Bits of the mantissa that stay; float32 has 23.")


def apply(model: "fx.GraphModule", params: ShortMantissas, rows: "TechniqueRows") -> "fx.GraphModule":
    """The network with rounded floating-point parameters; its structure stays as it is."""
    # A recipe is read without torch, so it is imported where a network is changed.
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point():
                weight.copy_(_rounded(weight, params.bits))
    return model


def _rounded(weight: "Tensor", bits: int) -> "Tensor":
    import torch

    mantissa, exponent = torch.frexp(weight)  # |mantissa| in [0.5, 1): one bit more than what follows the leading one
    scale = 2.0 ** (bits + 1)
    return torch.ldexp(torch.round(mantissa * scale) / scale, exponent)
