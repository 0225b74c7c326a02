"""Keras files that the other folders lack, and what must be read of them.

    python tests/data/keras/generate.py

With TensorFlow 1.15.5 (Python 3.7) it makes

- `keras2_model.h5`: a whole model with the state of its optimizer. Layer `twin` is used
  by the model and by the model within it, so that both groups list its weights.
- `keras2_parts.h5`: `save_weights` of the same, its lists of names in parts, as Keras
  cuts those that are longer than 64 KiB (here: than 64 bytes).

With Keras 3 (tried: 3.15.1, with h5py 3.14.0)

- `keras3_model.h5`: a whole model in the format of Keras 2.
- `bfloat16.weights.h5`, `bfloat16.keras`: layers of other dtypes than float32.

and of each, `<file>.npz`: the values by the names that Keras gives them (`/` -> `|`;
bfloat16 as the integers of its bits), read from the model and never from the file.
"""
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
import numpy as np
import tensorflow as tf

HERE = os.path.dirname(os.path.abspath(__file__))


def path(name):
    return os.path.join(HERE, name)


def save_truth(name, values):
    values = {
        key.replace("/", "|"): value.view("u2") if "bfloat16" in str(value.dtype) else value
        for key, value in values.items()
    }
    np.savez_compressed(path(name + ".npz"), **values)


def keras2():
    from tensorflow.python.keras.saving import hdf5_format

    k = tf.keras.layers
    tf.compat.v1.set_random_seed(7)
    twin = k.Dense(4, name="twin")
    inner = tf.keras.Sequential([k.Dense(4, name="first", input_shape=(4,)), twin], name="inner")
    given = tf.keras.Input((4,), name="given")
    y = k.Dense(1, name="last")(k.BatchNormalization(name="norm")(twin(inner(twin(given)))))
    model = tf.keras.Model(given, y, name="outer")
    model.compile(tf.keras.optimizers.Adam(0.01), "mse")
    model.train_on_batch(np.arange(8.0).reshape(2, 4), np.ones((2, 1)))
    model.save(path("keras2_model.h5"))
    state = model.weights + model.optimizer.weights
    values = tf.keras.backend.batch_get_value(state)
    save_truth("keras2_model.h5", {v.name: a for v, a in zip(state, values)})
    hdf5_format.HDF5_OBJECT_HEADER_LIMIT = 64
    model.save_weights(path("keras2_parts.h5"))
    save_truth("keras2_parts.h5", {v.name: a for v, a in zip(model.weights, values)})


def keras3():
    import keras

    keras.utils.set_random_seed(7)
    k = keras.layers
    inner = keras.Sequential([k.Dense(2, name="deep")], name="inner")
    model = keras.Sequential([keras.Input((3,)), k.Dense(2, name="wide"), inner], name="outer")
    model.compile("adam", "mse")
    model.train_on_batch(np.arange(6.0).reshape(2, 3), np.ones((2, 2)))
    model.save(path("keras3_model.h5"))
    state = model.weights + model.optimizer.variables
    save_truth("keras3_model.h5", {v.path: np.asarray(v) for v in state})

    model = keras.Sequential(
        [
            keras.Input((3,)),
            k.Dense(4, dtype="bfloat16", name="brain"),
            k.Dense(2, dtype="float16", name="half"),
            k.Dense(2, dtype="float64", name="double"),
        ],
        name="mixed",
    )
    model.save_weights(path("bfloat16.weights.h5"))
    model.save(path("bfloat16.keras"))
    layers = {"brain": "dense", "half": "dense_1", "double": "dense_2"}
    truth = {}
    for layer in model.layers:
        for number, value in enumerate(layer.weights):
            truth["layers/%s/vars/%d" % (layers[layer.name], number)] = np.asarray(value)
    save_truth("bfloat16.weights.h5", truth)


if __name__ == "__main__":
    keras2() if sys.version_info < (3, 9) else keras3()
