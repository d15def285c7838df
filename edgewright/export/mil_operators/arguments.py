"""The operands of one operation, asked for by what they must be."""

from collections.abc import Mapping

import torch

__all__ = ["Arguments", "MilOperand"]

MilOperand = torch.Tensor | str


class Arguments:
    """Named operands; halves have been widened to float32, since each operator rounds its result only."""

    def __init__(self, operands: Mapping[str, list[MilOperand]], results: int) -> None:
        self._operands = operands
        self.results = results

    def __contains__(self, name: str) -> bool:
        return name in self._operands

    def tensor(self, name: str) -> torch.Tensor:
        """The operand as a tensor; KeyError where a required one is absent."""
        value = self._operands[name][0]
        if isinstance(value, str):
            raise TypeError(f"operand '{name}' is the text '{value}', not a tensor")
        return value

    def optional(self, name: str) -> torch.Tensor | None:
        """The operand, or None where the operation leaves it out."""
        return self.tensor(name) if name in self else None

    def tensors(self, name: str) -> list[torch.Tensor]:
        """All tensors of a tuple parameter."""
        return [value for value in self._operands[name] if isinstance(value, torch.Tensor)]

    def ints(self, name: str, default: list[int] | None = None) -> list[int]:
        """A vector of integers."""
        if name not in self and default is not None:
            return default
        return [int(n) for n in self.tensor(name).reshape(-1).tolist()]

    def integer(self, name: str, default: int | None = None) -> int:
        """A scalar integer."""
        return default if name not in self and default is not None else int(self.tensor(name).item())

    def number(self, name: str, default: float | None = None) -> float:
        """A scalar."""
        return default if name not in self and default is not None else float(self.tensor(name).item())

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value."""
        return bool(self.tensor(name).item()) if name in self else default

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        if name not in self and default is not None:
            return default
        value = self._operands[name][0]
        if not isinstance(value, str):
            raise TypeError(f"operand '{name}' is a tensor, not a text")
        return value
