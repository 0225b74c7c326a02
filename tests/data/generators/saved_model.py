"""A SavedModel of TF 2 that `examples/savedmodel.py` fine-tunes. Run with a TF2 python: saved_model.py"""
import os, shutil
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
import numpy as np
import tensorflow as tf

HERE = os.path.dirname(os.path.abspath(__file__))
D = os.path.join(os.path.dirname(HERE), "saved_model")


class Model(tf.Module):
    """Two layers, a step that no layer has, and text."""

    def __init__(self):
        super().__init__(name="model")
        r = np.random.RandomState(19)
        self.fc1 = [tf.Variable(r.normal(0, 0.5, (6, 8)).astype("f4"), name="fc1/kernel"),
                    tf.Variable(r.normal(0, 0.5, (8,)).astype("f4"), name="fc1/bias")]
        self.head = [tf.Variable(r.normal(0, 0.5, (8, 2)).astype("f4"), name="head/kernel"),
                     tf.Variable(r.normal(0, 0.5, (2,)).astype("f4"), name="head/bias")]
        self.text = tf.Variable(["left", "right"], trainable=False, name="classes")

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, name="x")])
    def __call__(self, x):
        return tf.nn.tanh(x @ self.fc1[0] + self.fc1[1]) @ self.head[0] + self.head[1]


def main():
    shutil.rmtree(D, ignore_errors=True)
    model = Model()
    tf.saved_model.save(model, os.path.join(D, "model"))
    x = np.random.RandomState(3).normal(size=(16, 6)).astype("f4")
    np.savez_compressed(os.path.join(D, "recorded.npz"), x=x, y=model(x).numpy())


if __name__ == "__main__":
    main()
