"""One output of TensorFlow 1.15 for each mistake that is easily made when porting.

Small layers, each with inputs of its own, so that tests/ports/test_traps.py can make one
mistake at a time. Writes traps/{model.ckpt*, oracle.npz}.
"""
import os

from _common import parse_out

import numpy as np
import tensorflow as tf

OUT, _ = parse_out("traps")
R = np.random.RandomState(7)
inputs, outputs, variables = {}, {}, {}


def given(name, *shape, **kw):
    value = kw.get("value")
    if value is None:
        value = (R.normal(size=shape) * kw.get("scale", 1.0)).astype("f4")
    inputs[name] = np.asarray(value)
    return tf.constant(inputs[name])


def variable(name, *shape, **kw):
    value = kw.get("value")
    if value is None:
        value = R.normal(size=shape) * kw.get("scale", 0.5)
    variables[name] = tf.Variable(np.asarray(value, "f4"), name=name)
    return variables[name]


# Convolutions
x = given("image", 2, 8, 8, 4)
w = variable("conv_slim/w", 3, 3, 4, 3)
padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
outputs["conv_slim"] = tf.nn.conv2d(padded, w, strides=[1, 2, 2, 1], padding="VALID")
w1, w2 = variable("units/w1", 3, 3, 4, 4), variable("units/w2", 3, 3, 4, 4)
y = tf.nn.relu(tf.nn.conv2d(x, w1, strides=[1, 1, 1, 1], padding="SAME"))
outputs["units"] = tf.nn.conv2d(y, w2, strides=[1, 2, 2, 1], padding="SAME")
w = variable("depthwise/w", 3, 3, 4, 2)
outputs["depthwise"] = tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")
d, p = variable("separable/d", 3, 3, 4, 2), variable("separable/p", 1, 1, 8, 5)
outputs["separable"] = tf.nn.separable_conv2d(x, d, p, [1, 1, 1, 1], "SAME")
w = variable("deconv/w", 3, 3, 5, 4)
outputs["deconv"] = tf.nn.conv2d_transpose(x, w, [2, 16, 16, 5], [1, 2, 2, 1], "SAME")
w = variable("deconv_odd/w", 4, 4, 5, 4)
outputs["deconv_odd"] = tf.nn.conv2d_transpose(x, w, [2, 15, 15, 5], [1, 2, 2, 1], "SAME")
outputs["avg_pool"] = tf.nn.avg_pool2d(x, 3, 2, "SAME")
w = variable("logits/w", 1, 1, 4, 4)
pooled = tf.reduce_mean(x, [1, 2], keepdims=True)
outputs["logits"] = tf.nn.conv2d(pooled, w, [1, 1, 1, 1], "SAME")[:, 0, 0]

# Normalisation
mean, var = variable("bn/mean", 4), variable("bn/variance", value=R.uniform(0.5, 2, 4))
gamma, beta = variable("bn/gamma", 4), variable("bn/beta", 4)
outputs["bn"] = tf.nn.batch_normalization(x, mean, var, beta, gamma, 1e-3)
var = variable("bn_fused/variance", value=[1e-7, 2e-7, 1e-6, 2e-6])
mean, beta = variable("bn_fused/mean", 4, scale=1e-3), variable("bn_fused/beta", 4)
small = given("small", 2, 8, 8, 4, scale=1e-3)
outputs["bn_fused"] = tf.nn.fused_batch_norm(
    small, tf.ones(4), beta, mean, var, epsilon=1e-5, is_training=False
)[0]
outputs["bn_slim"] = tf.contrib.layers.batch_norm(
    x, is_training=False, scope="bn_slim",
    param_initializers={"beta": tf.constant_initializer([0.1, 0.2, 0.3, 0.4])},
)
row = given("row", 3, 8, scale=1e-3)
outputs["layer_norm"] = tf.contrib.layers.layer_norm(row, scope="layer_norm")
outputs["layer_norm_4d"] = tf.contrib.layers.layer_norm(x, scope="layer_norm_4d")
outputs["group_norm"] = tf.contrib.layers.group_norm(small, groups=2, scope="group_norm")
outputs["instance_norm"] = tf.contrib.layers.instance_norm(small, scope="instance_norm")
w = variable("ema/w", 8, 3)
w_ema = variable("ema/w/ExponentialMovingAverage", 8, 3)
wide = given("wide", 3, 8)
outputs["ema"] = tf.matmul(wide, w_ema)

# Activations
def gelu(v):
    return 0.5 * v * (1 + tf.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * tf.pow(v, 3))))


outputs["gelu"] = gelu(wide)
outputs["leaky_relu"] = tf.nn.leaky_relu(wide)
outputs["hard_sigmoid"] = tf.keras.backend.hard_sigmoid(wide)

# Recurrent cells
seq = given("sequence", 3, 5, 4)
lengths = given("lengths", value=np.array([5, 3, 1], "i4"))
c0, h0 = given("c0", 3, 6, scale=2.0), given("h0", 3, 2)
cell = tf.nn.rnn_cell.LSTMCell(
    6, use_peepholes=True, cell_clip=0.7, num_proj=2, proj_clip=0.4, name="peephole",
    initializer=tf.random_normal_initializer(stddev=0.6, seed=3),
)
outputs["peephole"], _ = cell(seq[:, 0], tf.nn.rnn_cell.LSTMStateTuple(c0, h0))
gru = tf.nn.rnn_cell.GRUCell(
    6, name="gru", kernel_initializer=tf.random_normal_initializer(stddev=0.6, seed=4)
)
outputs["gru"], _ = gru(seq[:, 0], c0)
rnn = {
    way: tf.nn.rnn_cell.BasicRNNCell(3, name="rnn_" + way) for way in ("fw", "bw")
}
(outputs["rnn_fw"], outputs["rnn_bw"]), _ = tf.nn.bidirectional_dynamic_rnn(
    rnn["fw"], rnn["bw"], seq, sequence_length=lengths, dtype=tf.float32
)

# Embeddings and attention
ids = given("ids", value=np.array([[1, 9, 0], [20, 0, 0]], "i4"))
parts = [variable("table/weights_%d" % i, 2, 4) for i in range(11)]
table = tf.concat(parts, 0) * 4**0.5
outputs["table"] = tf.gather(table, ids) * tf.cast(ids > 0, tf.float32)[..., None]
target = tf.pad(outputs["table"], [[0, 0], [1, 0], [0, 0]])[:, :-1]
position = np.arange(3)[:, None] * np.exp(-np.arange(2) * np.log(1e4))[None]
timing = np.concatenate([np.sin(position), np.cos(position)], 1).astype("f4")
outputs["timing"] = target + timing[None]
q, k = given("q", 2, 2, 3, 4), given("k", 2, 2, 3, 4)
bias = variable("t5/relative_bias", 2, 2)
buckets = given("buckets", value=np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], "i4"))
scores = tf.einsum("bhqd,bhkd->bhqk", q, k)
outputs["t5"] = tf.nn.softmax(scores + tf.gather(bias, buckets, axis=1)[None])
embedding = variable("t5/embedding", 7, 8)
outputs["t5_logits"] = tf.matmul(wide * 8**-0.5, embedding, transpose_b=True)
w = variable("nsp/output_weights", 8, 8)
outputs["nsp"] = tf.matmul(wide, w, transpose_b=True)
words, other = variable("mlm/words", 9, 8), variable("mlm/other", 9, 8)
outputs["mlm"] = tf.matmul(wide, words, transpose_b=True)

# Images
outputs["nearest"] = tf.image.resize_nearest_neighbor(x, [5, 13])
outputs["bilinear"] = tf.image.resize_bilinear(x, [5, 13])
outputs["depth_to_space"] = tf.nn.depth_to_space(tf.tile(x, [1, 1, 1, 2]) * np.arange(8), 2)

with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    recorded = session.run(outputs)
    tf.train.Saver().save(
        session, os.path.join(OUT, "model.ckpt"), write_meta_graph=False, write_state=False
    )
np.savez_compressed(os.path.join(OUT, "oracle.npz"), **dict(inputs, **recorded))
