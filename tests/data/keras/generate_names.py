"""Files of Keras 3 that have the names of layers, or lack them, and what Keras says.

    KERAS_BACKEND=jax python tests/data/keras/generate_names.py

With Keras 3.3.3 and 3.15.1 (each on JAX, with h5py 3.14) it makes, in `names/`,

- `<version>.keras`: a compiled model with models in it, and the state of its optimizer.
  Its member `model.weights.h5` is what `save_weights` writes, in which Keras 3.3 stores
  no names of layers.
- `<version>.npz`: the values by the paths that Keras gives, in its order: `<i>|<path>`.

and with 3.15.1 also `shards/`, by `save_weights` to several files.
"""
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import keras
import numpy as np

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "names")


def part(name):
    given = keras.Input((4,))
    return keras.Model(given, keras.layers.Dense(4, name="d")(given), name=name)


def model():
    k = keras.layers
    given = keras.Input((6, 4), name="given")
    x = k.Conv1D(4, 2, name="conv1")(given)
    x = k.BatchNormalization(scale=False, name="norm")(x)
    x = k.Bidirectional(k.LSTM(2, return_sequences=True, name="l"), name="both")(x)
    x = k.MultiHeadAttention(2, 2, name="att")(x, x)
    x = k.TimeDistributed(k.Dense(4, use_bias=False, name="td"), name="steps")(x)
    x = k.GlobalAveragePooling1D()(x)
    x = k.Dense(4)(x + 1.0)
    x = k.LayerNormalization(center=False, name="ln")(x)
    x = k.Add()([part("left")(x), part("right")(x)])
    frozen = k.Dense(3, name="frozen", trainable=False)
    return keras.Model(given, k.Dense(2, name="head")(frozen(x)), name="top")


def main():
    os.makedirs(HERE, exist_ok=True)
    version = keras.__version__
    built = model()
    built.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    built.optimizer.build(built.trainable_variables)
    variables = built.variables + built.optimizer.variables
    random = np.random.RandomState(3)
    for variable in variables:
        values = random.normal(size=variable.shape) * 8
        variable.assign(values.astype(str(variable.dtype)))
    path = os.path.join(HERE, version)
    built.save(path + ".keras")
    truth = {
        "%d|%s" % (number, variable.path.replace("/", "|")): np.asarray(variable)
        for number, variable in enumerate(variables)
    }
    np.savez_compressed(path + ".npz", **truth)
    if version.startswith("3.15."):
        os.makedirs(os.path.join(HERE, "shards"), exist_ok=True)
        shards = os.path.join(HERE, "shards", "model.weights.json")
        built.save_weights(shards, max_shard_size=1e-6)


if __name__ == "__main__":
    main()
