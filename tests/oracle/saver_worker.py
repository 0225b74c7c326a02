"""TensorFlow, 1.15 or 2, restores what was saved; prints what it got as JSON.

    saver_worker.py PREFIX NAMES_JSON [whole]

For each name the hex bytes from the checkpoint reader, and, where TensorFlow has such a
variable, those that a Saver restored into it: whole, and into three partitions unless
"whole" is given.
"""

import base64
import json
import os
import sys
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")
import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
v1.logging.set_verbosity(v1.logging.FATAL)
v1.disable_v2_behavior()


def plain(value):
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        flat = np.asarray(value, object).ravel().tolist()
        return [base64.b64encode(one).decode() for one in flat]
    return array.tobytes().hex()


def restored(prefix, name, shape, dtype, parts):
    with tf.Graph().as_default():
        partitioner = v1.fixed_size_partitioner(parts) if parts > 1 else None
        variable = v1.get_variable(
            name,
            shape,
            dtype,
            v1.zeros_initializer,
            partitioner=partitioner,
            use_resource=False,
        )
        with v1.Session() as session:
            v1.train.Saver({name: variable}).restore(session, prefix)
            return plain(session.run(tf.convert_to_tensor(variable)))


def main(prefix, names, is_whole):
    reader = v1.train.NewCheckpointReader(prefix)
    shapes, dtypes = (
        reader.get_variable_to_shape_map(),
        reader.get_variable_to_dtype_map(),
    )
    answer = {"__all__": sorted(shapes)}
    for name in names:
        got = {"read": plain(reader.get_tensor(name)), "shape": list(shapes[name])}
        got["dtype"] = dtypes[name].name
        is_plain = dtypes[name] in (tf.float32, tf.float64, tf.int32, tf.int64)
        if is_plain and all(shapes[name]) and name.isidentifier():
            got["saver"] = restored(prefix, name, shapes[name], dtypes[name], 1)
            if shapes[name] and not is_whole:
                got["parts"] = restored(prefix, name, shapes[name], dtypes[name], 3)
        answer[name] = got
    latest = tf.train.latest_checkpoint(os.path.dirname(prefix))
    answer["__latest__"] = latest
    print(json.dumps(answer))


main(sys.argv[1], json.loads(sys.argv[2]), "whole" in sys.argv[3:])
