"""What TensorFlow 1.15 makes of tables and vocabularies: `tf.train.VocabInfo`.

Every case warm-starts one variable, in a process of its own graph, and records either
the values or the error. Run as

    /path/to/tf1/bin/python generators/vocabulary.py --out DIR

and it writes DIR/vocabulary/{old.txt, new.txt, model.ckpt*, recorded.json}.
"""

from __future__ import absolute_import, division, print_function

import argparse
import base64
import json
import os
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)

# What rows that are not there get.
MISSING = -7.0
OLD = b"the\ncat\nsat\nmat\ndog\n"
NEW = b"mat\nthe\nbird\ncat\n"
# Case -> old file, new file, options, rows of the old table.
CASES = {
    "other_words": (OLD, NEW, {}, 5),
    "two_buckets": (OLD, NEW, {"num_oov_buckets": 2}, 5),
    "old_size": (OLD, NEW, {"old_size": 2}, 5),
    "new_size": (OLD, NEW, {"new_size": 2}, 5),
    "both_sizes_and_a_bucket": (
        OLD, NEW, {"old_size": 4, "new_size": 3, "num_oov_buckets": 1}, 5,
    ),
    "columns": (OLD, NEW, {"axis": 1, "num_oov_buckets": 1}, 5),
    "old_buckets": (OLD, NEW, {}, 8),
    "partitioned_old": (OLD, NEW, {"num_oov_buckets": 1, "old_parts": 2}, 5),
    "partitioned_new": (OLD, NEW, {"num_oov_buckets": 1, "new_parts": 2}, 5),
    "partitioned_both": (OLD, NEW, {"old_parts": 3, "new_parts": 2}, 5),
    "a_word_twice_in_new": (OLD, b"cat\nmat\ncat\n", {}, 5),
    "a_word_twice_in_old": (b"the\ncat\nthe\nmat\ndog\n", NEW, {}, 5),
    "a_word_twice_in_old_beyond_its_size": (
        b"the\ncat\nsat\nthe\ndog\n", NEW, {"old_size": 3}, 5,
    ),
    "an_empty_line_in_old": (b"the\n\nsat\nmat\ndog\n", NEW, {}, 5),
    "an_empty_line_in_new": (OLD, b"mat\n\ncat\n", {}, 5),
    "an_empty_line_at_the_end_of_old": (OLD + b"\n", NEW, {}, 6),
    "an_empty_line_at_the_end_of_new": (OLD, NEW + b"\n", {"new_size": 4}, 5),
    "an_empty_line_beyond_the_size": (
        OLD + b"\n", NEW, {"old_size": 5}, 5,
    ),
    "too_many_new_words": (OLD, NEW, {"new_size": 5}, 5),
    "too_many_old_words": (OLD, NEW, {"old_size": 6}, 6),
    "carriage_returns": (OLD.replace(b"\n", b"\r\n"), NEW, {}, 5),
    "carriage_returns_in_new": (OLD, NEW.replace(b"\n", b"\r\n"), {}, 5),
    "a_carriage_return_inside": (b"the\nc\rat\nsat\nmat\ndog\n", NEW, {}, 5),
    "two_carriage_returns": (b"the\ncat\r\r\nsat\nmat\ndog\n", NEW, {}, 5),
    "a_line_of_a_carriage_return": (b"the\n\r\nsat\nmat\ndog\n", NEW, {}, 5),
    "a_carriage_return_before_the_end": (b"the\ncat\nsat\nmat\ndog\r", b"dog\r", {}, 5),
    "a_nul_byte": (b"the\nc\0t\nsat\nmat\ndog\n", b"c\0t\nc\n", {}, 5),
    "spaces": (b"the\ncat \nsat\n mat\ndog\n", NEW, {}, 5),
    "a_line_of_spaces": (b"the\n \nsat\nmat\ndog\n", b"mat\n \n", {}, 5),
    "no_newline_at_the_end": (OLD[:-1], NEW[:-1], {}, 5),
    "an_empty_old_file": (b"", NEW, {}, 5),
    "no_word_in_common": (OLD, b"x\ny\n", {}, 5),
    "accents": (b"\xc3\xa9t\xc3\xa9\ncat\n", b"cat\n\xc3\xa9t\xc3\xa9\n", {}, 2),
    "bytes_that_are_no_text": (b"\xff\ncat\n", b"cat\n\xff\n", {}, 2),
    "more_words_than_rows": (OLD, NEW, {}, 3),
}  # fmt: skip


def table(rows, axis):
    values = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + 1
    return values if axis == 0 else np.ascontiguousarray(values.T)


def partitioner(parts):
    return tf.compat.v1.fixed_size_partitioner(parts) if parts else None


def save(prefix, values, parts):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        with tf.compat.v1.variable_scope("", partitioner=partitioner(parts)):
            tf.compat.v1.get_variable(
                "table",
                values.shape,
                initializer=tf.compat.v1.constant_initializer(values)
                if not parts
                else (lambda shape, dtype=None, partition_info=None: tf.constant(
                    values[
                        partition_info.var_offset[0] : partition_info.var_offset[0]
                        + shape[0]
                    ]
                )),
            )
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, prefix, write_meta_graph=False)


def run(old, new, options, rows):
    axis = options.get("axis", 0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("old.txt", "new.txt")]
        for path, content in zip(paths, (old, new)):
            with open(path, "wb") as file:
                file.write(content)
        values = table(rows, axis)
        prefix = os.path.join(folder, "m")
        save(prefix, values, options.get("old_parts"))
        words = new.count(b"\n") + (not new.endswith(b"\n"))
        new_size = options.get("new_size", words)
        buckets = options.get("num_oov_buckets", 0)
        count = new_size + buckets
        shape = (count, 3) if axis == 0 else (3, count)
        info = tf.compat.v1.train.VocabInfo(
            new_vocab=paths[1],
            new_vocab_size=new_size,
            num_oov_buckets=buckets,
            old_vocab=paths[0],
            old_vocab_size=options.get("old_size", -1),
            # Of a shape that is known only when it runs.
            backup_initializer=lambda shape, dtype=None, partition_info=None: tf.fill(
                shape, MISSING
            ),
            axis=axis,
        )
        try:
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                with tf.compat.v1.variable_scope(
                    "", partitioner=partitioner(options.get("new_parts"))
                ):
                    variable = tf.compat.v1.get_variable(
                        "table",
                        shape,
                        initializer=tf.compat.v1.constant_initializer(0.0),
                    )
                tf.compat.v1.train.warm_start(
                    prefix, var_name_to_vocab_info={"table": info}
                )
                session.run(tf.compat.v1.global_variables_initializer())
                result = session.run(tf.convert_to_tensor(variable))
        except Exception as error:  # which one is recorded
            message = str(error).split("\n")[0].replace(folder + "/", "")
            return {"error": type(error).__name__, "message": message}
        return {"values": result.tolist()}


def main():
    parser = argparse.ArgumentParser()
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--out", default=os.path.dirname(here))
    folder = os.path.join(parser.parse_args().out, "vocabulary")
    if not os.path.isdir(folder):
        os.makedirs(folder)
    for name, content in (("old.txt", OLD), ("new.txt", NEW)):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    save(os.path.join(folder, "model.ckpt"), table(5, 0), None)
    recorded = {}
    for name, (old, new, options, rows) in CASES.items():
        recorded[name] = {
            "old": base64.b64encode(old).decode(),
            "new": base64.b64encode(new).decode(),
            "options": options,
            "rows": rows,
            **run(old, new, options, rows),
        }
        print(name, recorded[name].get("values") or recorded[name]["message"])
    with open(os.path.join(folder, "recorded.json"), "w") as file:
        json.dump({"missing": MISSING, "cases": recorded}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
