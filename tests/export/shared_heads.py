"""Attention whose heads share one key and one value, as multi-query attention does."""

from torch import nn
from torch.nn import functional


class SharedHeads(nn.Module):
    """Four heads of two; keys and values are expanded to four, for one head by way of an axis more."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 12)

    def forward(self, x):
        rows, count, _ = x.shape
        queries, keys, values = self.layer(x).unsqueeze(1).split([8, 2, 2], 3)
        queries = queries.reshape(rows, count, 4, 2).transpose(1, 2)
        keys = keys.unsqueeze(2).expand(rows, 1, 4, count, 2).reshape(rows, 4, count, 2)
        seen = functional.scaled_dot_product_attention(queries, keys, values.expand(rows, 4, count, 2), scale=0.5)
        return seen.transpose(1, 2).reshape(rows, count, 8)
