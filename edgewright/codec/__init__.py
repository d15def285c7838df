"""Entropy coding of exported model files: the encoder of ``.ewz``; `edgewright_runtime.codec.ewz` is the decoder."""
