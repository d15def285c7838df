"""Run by itself: ``python keras_networks.py FOLDER NAME...`` saves small Keras networks with rows for each.

One process for all that are asked for, since importing TensorFlow is what costs.
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
LEGACY = sys.argv[2].startswith("old_")
if LEGACY:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras as keras
else:
    import keras
import numpy as np  # noqa: E402 - after the choice of the loader

L = keras.layers
RANDOM = np.random.default_rng(0)
ROWS, TRAINED = 60, 40


def images(*shape):
    return RANDOM.random((ROWS, *shape)).astype(np.float32)


def ids(length, dtype="int32"):
    """Rows of their own length, filled up with zeros."""
    found = RANDOM.integers(1, 30, (ROWS, length))
    found[np.arange(length) >= RANDOM.integers(2, length + 1, ROWS)[:, None]] = 0
    return found.astype(dtype)


def scored(given, h, x):
    return keras.Model(given, L.Dense(3, activation="softmax")(h)), x


def same_stride():
    i = L.Input((32, 32, 3))
    h = L.Conv2D(8, 3, strides=2, padding="same")(i)
    return scored(i, L.Flatten()(L.AveragePooling2D(16)(h)), images(32, 32, 3))


def odd_sizes():
    i = L.Input((33, 47, 2))
    h = L.DepthwiseConv2D(3, strides=2, padding="same")(i)
    h = L.SeparableConv2D(4, 5, strides=2, padding="same", activation="relu")(h)
    h = L.ZeroPadding2D(((0, 1), (2, 0)))(h)
    return scored(i, L.Flatten()(L.GlobalAveragePooling2D(keepdims=True)(h)), images(33, 47, 2))


def one_dimension():
    i = L.Input((20, 3))
    h = L.Conv1D(6, 5, padding="causal", dilation_rate=2)(i)
    h = L.Conv1D(4, 4, strides=2, padding="same")(h)
    return scored(i, L.Flatten()(h), images(20, 3))


def groups():
    """Keras has them compiled by XLA, since TensorFlow's kernels for processors have no groups."""
    i = L.Input((9, 8, 6))
    h = L.Conv2D(12, 3, strides=2, padding="same", groups=3, activation="relu")(i)
    h = L.Conv2D(12, 3, groups=12)(h)
    h = L.Conv1D(4, 2, groups=2)(L.Reshape((-1, 12))(h))
    return scored(i, L.Flatten()(h), images(9, 8, 6))


def transposed():
    i = L.Input((7, 9, 4))
    h = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(i)
    h = L.Conv2DTranspose(3, 4, strides=3, padding="valid")(h)
    return scored(i, L.GlobalAveragePooling2D()(h), images(7, 9, 4))


def heads():
    """Two inputs and two outputs; gelu, which Keras writes as one minus an error function."""
    picture, extra = L.Input((16, 16, 1), name="image"), L.Input((5,), name="extra")
    h = L.Flatten()(L.Conv2D(4, 3, strides=2, padding="same")(picture))
    h = L.Concatenate()([h, L.Dense(8, activation="gelu")(extra)])
    outputs = [L.Dense(3, activation="softmax", name="kind")(h), L.Dense(1, name="age")(h)]
    return keras.Model([picture, extra], outputs), {"image": images(16, 16, 1), "extra": images(5)}


def named():
    """Inputs and outputs in dictionaries, whose order is not that of the alphabet."""
    first, second = L.Input((6,), name="b_first"), L.Input((5,), name="a_second")
    h = L.Concatenate()([L.Dense(4)(first), L.Dense(4)(second)])
    outputs = {"score": L.Dense(3, activation="softmax")(h), "feature": h}
    return keras.Model({"b_first": first, "a_second": second}, outputs), {"a_second": images(5), "b_first": images(6)}


def masked():
    """Steps that are left out, both ways, sums of layers written as ``+``."""
    i = L.Input((8,), dtype="int64")
    h = L.Embedding(30, 6, mask_zero=True)(i)
    h = L.Bidirectional(L.LSTM(5, return_sequences=True))(h)
    return scored(i, L.GRU(4)(h) + 0.5, ids(8, "int64"))


def pixels():
    i = L.Input((20, 24, 3), dtype="uint8")
    h = L.Rescaling(1 / 127.5, -1.0)(L.Resizing(16, 16)(i))
    h = L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])(h)
    h = L.Conv2D(4, 3, 2, padding="same", activation="relu6")(h)
    return scored(i, L.Flatten()(h), RANDOM.integers(0, 256, (ROWS, 20, 24, 3)).astype(np.uint8))


def resized():
    """The ways of which ONNX has none as TensorFlow computes them; one axis grows, the other shrinks."""
    i = L.Input((12, 10, 3))
    ways = ["bicubic", "area", "lanczos3", "lanczos5"]
    parts = [L.Resizing(17, 6, interpolation=way)(i) for way in ways]
    h = L.Flatten()(L.Conv2D(4, 3)(L.Concatenate()(parts)))
    larger = L.Flatten()(L.UpSampling2D((2, 1), interpolation="bicubic")(i))
    return scored(i, L.Concatenate()([h, larger]), images(12, 10, 3))


def odd_sizes_resized():
    """7 times the 31/7 of float32 is less than 31, 12 times its 17/12 less than 17 where it is not rounded."""
    i = L.Input((7, 12, 3))
    parts = [L.Resizing(31, 17, interpolation=way)(i) for way in ("bilinear", "nearest")]
    less = [L.Flatten()(L.Resizing(5, 7, interpolation=way)(i)) for way in ("bilinear", "nearest")]
    return scored(i, L.Concatenate()([L.Flatten()(L.Conv2D(4, 3)(L.Concatenate()(parts))), *less]), images(7, 12, 3))


def smaller():
    i = L.Input((12, 10, 3))
    resizing = L.Resizing(17, 6, interpolation="bicubic", name="smaller")
    return scored(i, L.Flatten()(resizing(i)), images(12, 10, 3))


def categories():
    """Ids and numbers in bins, as one place each, as their sum, counted by weights, and as ids of an embedding."""
    i, numbers = L.Input((3,), dtype="int32", name="ids"), L.Input((3,), name="numbers")
    values = RANDOM.normal(size=(ROWS, 3)).astype(np.float32)
    bins = [-0.5, 0.0, 0.5]
    values[:4] = [bins, [0.5, 9.0, -9.0], [-0.5, -0.5, 0.0], [0.0, 0.49, 0.51]]
    parts = [
        L.Flatten()(L.CategoryEncoding(num_tokens=6, output_mode="one_hot")(i)),
        L.CategoryEncoding(num_tokens=6, output_mode="multi_hot")(i),
        L.CategoryEncoding(num_tokens=6, output_mode="count")(i, count_weights=numbers),
        L.Flatten()(L.Embedding(4, 2)(L.Discretization(bin_boundaries=bins)(numbers))),
        *(
            keras.ops.cast(L.Discretization(bin_boundaries=bins, output_mode=mode)(numbers), "float32")
            for mode in ("multi_hot", "count")
        ),
    ]
    h = L.Dense(3, activation="softmax")(L.Concatenate()(parts))
    rows = {"ids": RANDOM.integers(0, 6, (ROWS, 3)).astype(np.int32), "numbers": values}
    return keras.Model([i, numbers], h), rows


def attention():
    i = L.Input((10,), dtype="int32")
    h = L.Embedding(30, 8)(i)
    h = L.LayerNormalization()(h + L.MultiHeadAttention(2, 4)(h, h))
    return scored(i, L.GlobalAveragePooling1D()(h), ids(10))


def small_numbers():
    """Of numbers that are lost beside 1, made large again."""
    i = L.Input((4,))
    h = (keras.ops.log1p(i * 1e-6) + 2 * keras.ops.expm1(i * 1e-6)) * 1e6
    return scored(i, h, images(4))


def volumes():
    i = L.Input((6, 8, 8, 2))
    h = L.MaxPooling3D(2, padding="same")(L.Conv3D(4, 3, strides=2, padding="same", activation="relu")(i))
    return scored(i, L.Flatten()(h), images(6, 8, 8, 2))


def no_onnx():
    """A matrix inverse: tf2onnx has no operator for it."""
    i = L.Input((4, 4))
    h = keras.ops.inv(i + 4 * np.eye(4, dtype=np.float32))
    return scored(i, L.Flatten()(h), images(4, 4))


def no_way():
    i = L.Input((4, 4))
    h = keras.ops.svd(i, compute_uv=False)
    return scored(i, h, images(4, 4))


def old_resnet():
    """The residual network of an embedded benchmark, for CIFAR's images, with two stages."""
    i = L.Input((32, 32, 3))

    def conv(x, filters, kernel=3, strides=1):
        return L.Conv2D(filters, kernel, strides=strides, padding="same")(x)

    x = L.Activation("relu")(L.BatchNormalization()(conv(i, 8)))
    y = L.BatchNormalization()(conv(x, 16, 3, 2))
    x = L.Activation("relu")(L.add([conv(x, 16, 1, 2), y]))
    return scored(i, L.Flatten()(L.AveragePooling2D(8)(x)), images(32, 32, 3))


def old_masked():
    i = L.Input((8,), dtype="int32")
    h = L.Embedding(30, 6, mask_zero=True)(i)
    h = L.Bidirectional(L.LSTM(5, return_sequences=True))(h)
    return scored(i, L.GRU(4)(h), ids(8))


def save(name, folder):
    keras.utils.set_random_seed(0)
    model, rows = globals()[name]()
    for weight in model.weights:  # statistics as after training
        if "moving" in getattr(weight, "path", weight.name):
            weight.assign(RANDOM.random(weight.shape) + 0.5)
    if LEGACY:
        model.compile("adam", "sparse_categorical_crossentropy")
        model.save(folder / f"{name}.h5")
        model.save(folder / f"{name}_saved")
    else:
        model.save(folder / f"{name}.keras")
        model.export(folder / f"{name}_saved", verbose=False)
    rows = rows if isinstance(rows, dict) else {"": rows}
    arrays = {}
    for key, values in rows.items():
        suffix = f".{key}" if key else ""
        arrays |= {f"x_train{suffix}": values[:TRAINED], f"x_test{suffix}": values[TRAINED:]}
    truth = RANDOM.integers(0, 3, ROWS)
    truth[:3] = truth[TRAINED : TRAINED + 3] = [0, 1, 2]
    np.savez(folder / f"{name}.npz", **arrays, y_train=truth[:TRAINED], y_test=truth[TRAINED:])


for asked in sys.argv[2:]:
    save(asked, Path(sys.argv[1]))
