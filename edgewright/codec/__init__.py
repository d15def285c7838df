"""Entropy coding of exported model files: the encoder of ``.ewz``; `edgewright_runtime.ewz` is the decoder."""
