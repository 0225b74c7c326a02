"""Lets Keras 3 save models and say what their variables are called; has no tf2flax.

    python tests/oracle/keras_worker.py <folder>

For each model: `<name>.keras`, `<name>.weights.h5`, and `<name>.npz` with the values in
order, as `<i>|<path>`; and `<name>.weights.json` with its files, where Keras has that.
"""

import os
import sys
import warnings

os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND", "jax")
os.environ["JAX_PLATFORMS"] = "cpu"
warnings.simplefilter("ignore")
import keras
import numpy as np

k = keras.layers


def part(name):
    given = keras.Input((4,))
    return keras.Model(given, k.Dense(4, name="d")(given), name=name)


def convolutions():
    layers = [
        *(keras.Input((8, 8, 3)), k.Conv2D(4, 3, name="conv1"), k.PReLU(name="p")),
        *(k.BatchNormalization(name="bn"), k.DepthwiseConv2D(3), k.Dropout(0.1)),
        *(k.SeparableConv2D(5, 3, name="sep"), k.Conv2DTranspose(4, 3, use_bias=False)),
        *(k.GlobalAveragePooling2D(), k.Dense(2, name="head")),
    ]
    return keras.Sequential(layers, name="net"), keras.optimizers.Adam(amsgrad=True)


def nested():
    given = keras.Input((4,))
    left, right = part("left"), part("right")
    x = k.Concatenate()([left(given), right(given)])
    x = left(keras.Sequential([k.Dense(4, name="d2")], name="s")(k.Dense(4)(x)))
    optimizer = keras.optimizers.RMSprop(momentum=0.5, centered=True)
    return keras.Model(given, x + 1.0, name="top"), optimizer


def recurrent():
    given = keras.Input((5, 4))
    x = k.Bidirectional(k.LSTM(3, return_sequences=True, name="l"), name="bi")(given)
    x = k.Bidirectional(k.GRU(3, return_sequences=True, dropout=0.1))(x)
    x = k.GRU(3, return_sequences=True, name="g", reset_after=False)(x)
    x = k.SimpleRNN(3, return_sequences=True, use_bias=False)(x)
    x = k.TimeDistributed(k.Dense(3, name="td"), name="steps")(x)
    x = k.RNN([k.LSTMCell(3, name="c1"), k.GRUCell(2)], name="stack")(x)
    return keras.Model(given, x), keras.optimizers.SGD(momentum=0.9)


def attention():
    given = keras.Input((5,))
    x = k.Embedding(10, 4, name="emb")(given)
    x = k.MultiHeadAttention(2, 2, name="mha", dropout=0.1)(x, x)
    x = k.GroupQueryAttention(2, 2, 1, name="gqa")(x, x)
    x = k.Attention(use_scale=True, name="att")([x, x])
    einsum = k.EinsumDense("abc,cd->abd", output_shape=(None, 4), bias_axes="d")
    x = k.LayerNormalization(center=False)(einsum(k.AdditiveAttention()([x, x])))
    x = k.GroupNormalization(2, scale=False)(x)
    x = k.SpectralNormalization(k.Dense(4, name="sd"), name="sp")(x)
    norm = k.Normalization(name="pre")
    norm.adapt(np.arange(36, dtype="f4").reshape(9, 4))
    return keras.Model(given, norm(x)), keras.optimizers.Adam(use_ema=True)


class Block(k.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.proj = k.Dense(4, name="proj")
        self.more = [k.Dense(4), k.Dense(4, name="named")]
        self.table = {"a": k.Dense(4), "b": k.LayerNormalization()}

    def call(self, x):
        for layer in [self.proj, *self.more, *self.table.values()]:
            x = layer(x)
        return x


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = Block(), Block(name="second")
        self.attention = k.MultiHeadAttention(2, 2)

    def call(self, x):
        x = self.second(self.first(x))
        return self.attention(x, x)


def subclassed():
    model = Subclassed(name="sub")
    model(np.ones((2, 3, 4), "f4"))
    return model, keras.optimizers.Adam()


def frozen():
    model = keras.Sequential([keras.Input((3,)), k.Dense(4), k.Dense(4), k.Dense(4)])
    model.layers[1].trainable = False
    inner = part("inner")
    inner.trainable = False
    model.add(inner)
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    return model, keras.optimizers.Adamax(rate)


def main():
    models = (convolutions, nested, recurrent, attention, subclassed, frozen)
    random = np.random.RandomState(3)
    for make in models:
        keras.utils.clear_session()
        model, optimizer = make()
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
        variables = model.variables + optimizer.variables
        for variable in variables:
            values = random.normal(size=variable.shape) * 100
            variable.assign(np.abs(values).astype(str(variable.dtype)))
        path = os.path.join(sys.argv[1], make.__name__)
        model.save(path + ".keras")
        model.save_weights(path + ".weights.h5")
        version = [int(number) for number in keras.__version__.split(".")[:2]]
        if version >= [3, 10]:
            model.save_weights(path + ".weights.json", max_shard_size=2e-6)
        truth = {
            "%d|%s" % (number, variable.path.replace("/", "|")): np.asarray(variable)
            for number, variable in enumerate(variables)
        }
        np.savez(path + ".npz", **truth)


if __name__ == "__main__":
    main()
