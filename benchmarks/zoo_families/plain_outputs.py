"""Networks of transformers as functions of tensors: positional inputs, and tensors instead of an output object.

The parameters bear the names that transformers gives them, so the program's inputs do too. Imports torch.
"""

from typing import Any

from torch import Tensor, nn

__all__ = ["plain"]


def plain(model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> nn.Module:
    """The model as a module whose parameters are ``inputs``, returning the fields ``outputs``.

    Raises:
        KeyError: no module here takes these inputs.
    """
    return _BY_INPUTS[inputs](model, outputs)


class _Plain(nn.Module):
    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def picked(self, **inputs: Tensor) -> Any:
        found = self.model(**inputs)
        values = tuple(getattr(found, name) for name in self.outputs)
        return values if len(values) > 1 else values[0]


class _Text(_Plain):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.picked(input_ids=input_ids, attention_mask=attention_mask)


class _Ids(_Plain):
    def forward(self, input_ids: Tensor) -> Any:
        return self.picked(input_ids=input_ids)


class _Pair(_Plain):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Any:
        return self.picked(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids)


class _Joint(_Plain):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Any:
        return self.picked(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)


class _Layout(_Plain):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, bbox: Tensor) -> Any:
        return self.picked(input_ids=input_ids, attention_mask=attention_mask, bbox=bbox)


class _Pixels(_Plain):
    def forward(self, pixel_values: Tensor) -> Any:
        return self.picked(pixel_values=pixel_values)


class _Values(_Plain):
    def forward(self, input_values: Tensor) -> Any:
        return self.picked(input_values=input_values)


class _Features(_Plain):
    def forward(self, input_features: Tensor, decoder_input_ids: Tensor) -> Any:
        return self.picked(input_features=input_features, decoder_input_ids=decoder_input_ids)


class _Heard(_Plain):
    def forward(self, input_values: Tensor, decoder_input_ids: Tensor) -> Any:
        return self.picked(input_values=input_values, decoder_input_ids=decoder_input_ids)


class _Inputs(_Plain):
    def forward(self, inputs: Tensor) -> Any:
        return self.picked(inputs=inputs)


class _Past(_Plain):
    def forward(self, past_values: Tensor) -> Any:
        return self.picked(past_values=past_values)


_BY_INPUTS: dict[tuple[str, ...], type[_Plain]] = {
    ("input_ids", "attention_mask"): _Text,
    ("input_ids",): _Ids,
    ("input_ids", "attention_mask", "decoder_input_ids"): _Pair,
    ("input_ids", "attention_mask", "pixel_values"): _Joint,
    ("input_ids", "attention_mask", "bbox"): _Layout,
    ("pixel_values",): _Pixels,
    ("input_values",): _Values,
    ("input_features", "decoder_input_ids"): _Features,
    ("input_values", "decoder_input_ids"): _Heard,
    ("inputs",): _Inputs,
    ("past_values",): _Past,
}
