"""The networks that `keras_models` lists by name. Imports Keras."""

from typing import Any

import keras
from keras import layers as L  # noqa: N812 - the letter that Keras code uses


def _convolution(x: Any, width: int, stride: int = 1) -> Any:
    x = L.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
    return L.Activation("relu")(L.BatchNormalization()(x))


def same_padding() -> Any:
    """Stride 2 with SAME padding on even sizes, pooled to 1x1 and flattened."""
    x = start = L.Input((32, 32, 3), name="x")
    x = _convolution(x, 8, 2)
    x = _convolution(x, 16, 2)
    x = L.AveragePooling2D(8)(x)
    return keras.Model(start, L.Dense(4, activation="softmax")(L.Flatten()(x)))


def separable() -> Any:
    """Separable and depthwise convolutions, zero padding, cropping, and activations of Keras."""
    x = start = L.Input((31, 31, 3), name="x")
    x = L.SeparableConv2D(16, 3, padding="same", activation="relu6")(x)
    x = L.ZeroPadding2D(((1, 0), (0, 1)))(x)
    x = L.DepthwiseConv2D(3, strides=2, activation="hard_swish")(x)
    x = L.Cropping2D(1)(x)
    x = L.PReLU(shared_axes=[1, 2])(L.Conv2D(24, 1)(x))
    return keras.Model(start, L.Dense(5)(L.GlobalMaxPooling2D()(x)))


def unet() -> Any:
    """Transposed convolution, nearest and bilinear enlargement, skip connections."""
    start = L.Input((48, 48, 3), name="x")
    a = _convolution(start, 8)
    b = _convolution(L.MaxPooling2D()(a), 16)
    c = _convolution(L.MaxPooling2D()(b), 24)
    x = L.Concatenate()([L.Conv2DTranspose(16, 3, 2, padding="same")(c), b])
    x = _convolution(x, 16)
    x = L.Concatenate()([L.UpSampling2D(interpolation="bilinear")(x), a])
    return keras.Model(start, L.Conv2D(2, 1, activation="sigmoid")(x))


def conv1d() -> Any:
    """Causal and dilated convolutions over sound."""
    x = start = L.Input((800, 1), name="x")
    x = L.Conv1D(8, 9, strides=4, padding="same", activation="relu")(x)
    x = L.Conv1D(16, 3, padding="causal", dilation_rate=2, activation="elu")(x)
    x = L.MaxPooling1D(4)(x)
    return keras.Model(start, L.Dense(4)(L.GlobalAveragePooling1D()(x)))


def conv3d() -> Any:
    """Clips."""
    x = start = L.Input((6, 16, 16, 1), name="x")
    x = L.Conv3D(8, 3, padding="same", activation="relu")(x)
    x = L.MaxPooling3D((1, 2, 2))(L.BatchNormalization()(x))
    x = L.Conv3D(12, 3, activation="relu")(x)
    return keras.Model(start, L.Dense(3)(L.GlobalAveragePooling3D()(x)))


def lstm() -> Any:
    """Two layers."""
    x = start = L.Input((20, 8), name="x")
    x = L.LSTM(16)(L.LSTM(12, return_sequences=True)(x))
    return keras.Model(start, L.Dense(3)(x))


def gru_both_ways() -> Any:
    """Both directions, and a dense layer at every step."""
    x = start = L.Input((20, 8), name="x")
    x = L.Bidirectional(L.GRU(10, return_sequences=True))(x)
    return keras.Model(start, L.TimeDistributed(L.Dense(2))(x))


def simple_rnn() -> Any:
    """An Elman network."""
    x = start = L.Input((20, 8), name="x")
    return keras.Model(start, L.Dense(2)(L.SimpleRNN(16)(x)))


def text_attention() -> Any:
    """Embedding, self-attention, layer norm."""
    start = L.Input((16,), dtype="int64", name="ids")
    x = L.Embedding(200, 32)(start)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(4, 8)(x, x))
    x = L.LayerNormalization()(x + L.Dense(32)(L.Dense(64, activation="gelu")(x)))
    return keras.Model(start, L.Dense(3, activation="softmax")(L.GlobalAveragePooling1D()(x)))


def shared_layers() -> Any:
    """One layer on two inputs, compared."""
    left, right = L.Input((12,), name="left"), L.Input((12,), name="right")
    shared = keras.Sequential([L.Input((12,)), L.Dense(16, activation="tanh"), L.Dense(8)])
    a, b = shared(left), shared(right)
    difference = L.Subtract()([a, b])
    return keras.Model([left, right], L.Dense(1)(L.Concatenate()([L.Multiply()([a, b]), difference])))


def two_outputs() -> Any:
    """Two inputs of different rank, two outputs."""
    picture, table = L.Input((32, 32, 3), name="picture"), L.Input((5,), name="table")
    x = L.GlobalAveragePooling2D()(_convolution(_convolution(picture, 8, 2), 16, 2))
    x = L.Concatenate()([x, L.Dense(8, activation="relu")(table)])
    outputs = [L.Dense(3, activation="softmax", name="kind")(x), L.Dense(1, name="amount")(x)]
    return keras.Model([picture, table], outputs)


def dense_table() -> Any:
    """A normalized table."""
    x = start = L.Input((13,), name="x")
    x = L.Dropout(0.2)(L.BatchNormalization()(L.Dense(32, activation="selu")(x)))
    return keras.Model(start, L.Dense(1)(x))
