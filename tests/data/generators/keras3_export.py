"""Keras 3 (TensorFlow backend): variables of `model.export`. Run with a TF2 python that has the keras of each version: keras3_export.py NAME..."""
import os, shutil, sys, tempfile
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["KERAS_BACKEND"] = "tensorflow"
import numpy as np
import keras

HERE = os.path.dirname(os.path.abspath(__file__))
D = os.path.join(os.path.dirname(HERE), "keras3_export")
L = keras.layers


def functional():
    """Every variable has a name of its own; trained, so that all differ, and the optimizer has state."""
    i = keras.Input((6,))
    x = L.BatchNormalization(name="bn")(L.Dense(5, name="fc1")(i))
    m = keras.Model(i, L.Dense(2, name="head")(L.Dropout(0.1, seed=1)(x)))
    m.compile("adam", "mse", metrics=["mae"])
    r = np.random.RandomState(0)
    m.fit(r.normal(size=(8, 6)), r.normal(size=(8, 2)), verbose=0)
    return m


def nested():
    """Two submodels with a layer `d`: fresh biases and norms are equal byte for byte."""
    def part(name):
        i = keras.Input((4,), name="in_" + name)
        return keras.Model(i, L.BatchNormalization(name="n")(L.Dense(4, name="d")(i)), name=name)

    i = keras.Input((4,))
    return keras.Model(i, L.Dense(1, name="out")(L.Add()([part("left")(i), part("right")(i)])))


def main():
    for name in sys.argv[1:] or ["functional", "nested"]:
        keras.utils.set_random_seed(1)
        model = {"functional": functional, "nested": nested}[name]()
        out = os.path.join(D, "%s-%s" % (name, keras.__version__))
        shutil.rmtree(out, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            model.export(os.path.join(folder, "m"))
            shutil.copytree(os.path.join(folder, "m", "variables"), os.path.join(out, "variables"))
        # Nested layers share names: the number of the variable is put before the name.
        np.savez_compressed(os.path.join(out, "values.npz"), **{"%d|%s" % (k, w.path.replace("/", "|")): np.asarray(w) for k, w in enumerate(model.variables)})


if __name__ == "__main__":
    main()
