"""TensorFlow 1.15 as a servant: JSON lines in, JSON lines out. Runs on Python 3.7.

    {"save": prefix, "tensors": [{name, shape, dtype, base, axis, parts}]}
    {"run": prefix, "variables": [{name, shape, dtype, resource, init, axis, parts}],
     "map": [[key, {"name": n} | {"variable": n} | {"list": [n, ...]}]]}

A `parts` of 0 means unpartitioned. The answer to `run` has `variables` (op name, shape,
dtype, whether it is a slice), and either `ok` (op name -> shape and hex bytes) or
`error` (stage, type, text).
"""

import json
import os
import sys
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")
import numpy as np
import tensorflow as tf

tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.FATAL)
CONFIG = tf.compat.v1.ConfigProto(
    intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
)


def value(spec):
    count = int(np.prod(spec["shape"], dtype=np.int64))
    numbers = spec["base"] + np.arange(count)
    if spec["dtype"] == "bool":
        numbers = numbers % 2 == 0
    return numbers.astype(spec["dtype"]).reshape(spec["shape"])


def partitioner(spec):
    if not spec["parts"]:
        return None
    return tf.compat.v1.fixed_size_partitioner(spec["parts"], axis=spec["axis"])


def save(request):
    with tf.Graph().as_default():
        for spec in request["tensors"]:
            array = value(spec)

            def initializer(shape, dtype=None, partition_info=None, array=array):
                if partition_info is None:
                    return tf.constant(array)
                box = zip(partition_info.var_offset, shape)
                return tf.constant(array[tuple(slice(o, o + s) for o, s in box)])

            tf.compat.v1.get_variable(
                spec["name"],
                shape=spec["shape"],
                dtype=spec["dtype"],
                initializer=initializer,
                partitioner=partitioner(spec),
            )
        with tf.compat.v1.Session(config=CONFIG) as session:
            session.run(tf.compat.v1.global_variables_initializer())
            saver = tf.compat.v1.train.Saver()
            saver.save(session, request["save"], write_meta_graph=False)
    return {}


def run(request):
    with tf.Graph().as_default():
        try:
            for spec in request["variables"]:
                init = spec["init"] if spec["dtype"] != "bool" else False
                tf.compat.v1.get_variable(
                    spec["name"],
                    shape=spec["shape"],
                    dtype=spec["dtype"],
                    initializer=tf.constant_initializer(init),
                    partitioner=partitioner(spec),
                    use_resource=spec["resource"],
                )
        except Exception as error:
            return {"error": ["build", type(error).__name__, str(error)[:300]]}
        variables = {v.op.name: v for v in tf.compat.v1.global_variables()}
        answer = {
            "variables": [
                {
                    "name": name,
                    "shape": v.shape.as_list(),
                    "dtype": v.dtype.base_dtype.name,
                    "slice": getattr(v, "_save_slice_info", None) is not None,
                }
                for name, v in variables.items()
            ]
        }

        def target(given):
            if "name" in given:
                return given["name"]
            if "variable" in given:
                return variables[given["variable"]]
            return [variables[name] for name in given["list"]]

        try:
            entries = {key: target(given) for key, given in request["map"]}
            tf.compat.v1.train.init_from_checkpoint(request["run"], entries)
        except Exception as error:
            answer["error"] = ["call", type(error).__name__, str(error)[:300]]
            return answer
        try:
            with tf.compat.v1.Session(config=CONFIG) as session:
                session.run(tf.compat.v1.global_variables_initializer())
                got = session.run(variables)
        except Exception as error:
            answer["error"] = ["init", type(error).__name__, str(error)[:300]]
            return answer
        answer["ok"] = {
            name: [list(np.shape(a)), np.asarray(a).tobytes().hex()]
            for name, a in got.items()
        }
        return answer


def main():
    for line in sys.stdin:
        request = json.loads(line)
        answer = save(request) if "save" in request else run(request)
        sys.stdout.write("ANSWER " + json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
