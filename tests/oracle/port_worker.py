"""TensorFlow 1.15 restores a checkpoint into a model of the zoo and runs it.

    port_worker.py MODEL PREFIX INPUTS_NPZ OUTPUTS_NPZ

The model is the one that the generator in tests/data/generators builds; every variable
of it is restored by a Saver.
"""

import os
import sys
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "data", "generators"))
import numpy as np
import tensorflow as tf


def build(model, feed):
    """The outputs to compare, by the names under which they are recorded."""
    constants = {name: tf.constant(array) for name, array in feed.items()}
    if model == "bert":
        import bert

        names = ("input_ids", "input_mask", "token_type_ids")
        sequence, pooled = bert.build(*(constants[name] for name in names))[:2]
        return {"sequence_output": sequence, "pooled_output": pooled}
    if model == "gpt2":
        import gpt2

        ends = gpt2.build(constants["ids"])
        return {name: ends[name] for name in ("hidden", "logits")}
    import resnet_slim

    (name,) = constants
    return {"logits": resnet_slim.build(constants[name])["logits"]}


def main(model, prefix, inputs, outputs):
    feed = dict(np.load(inputs))
    ends = build(model, feed)
    with tf.Session() as session:
        tf.train.Saver().restore(session, prefix)
        np.savez(outputs, **session.run(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
