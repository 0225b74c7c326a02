"""Recurrent cells: every naming and gate-order variant in common use in TF1."""
from _common import *
from tensorflow.contrib import cudnn_rnn, rnn as crnn

NAME = "recurrent"
B, T, D = 3, 7, 5
LEN = [7, 4, 1]
C = tf.nn.rnn_cell


def flat(prefix, st):
    out = {}
    if isinstance(st, C.LSTMStateTuple):
        out[prefix + "_c"], out[prefix + "_h"] = st.c, st.h
    elif isinstance(st, tuple):
        for i, s in enumerate(st):
            out.update(flat("%s_%d" % (prefix, i), s))
    else:
        out[prefix] = st
    return out


def build(x, n):
    ends = {}

    def run(scope, cell, **kw):
        with tf.variable_scope(scope):
            y, st = tf.nn.dynamic_rnn(cell, x, sequence_length=n, dtype=tf.float32, **kw)
        ends[scope + "_out"] = y
        ends.update(flat(scope + "_state", st))

    run("basic", C.BasicLSTMCell(6))                                            # forget_bias=1.0
    run("lstm_fb", C.LSTMCell(6, forget_bias=0.3))
    run("peep", C.LSTMCell(8, use_peepholes=True, num_proj=4, forget_bias=1.0, name="lstm_cell"))
    run("peep_clip", C.LSTMCell(8, use_peepholes=True, num_proj=4, cell_clip=0.5, proj_clip=0.15))
    run("multi", C.MultiRNNCell([C.LSTMCell(6), C.BasicLSTMCell(4), C.GRUCell(3)]))
    run("gru", C.GRUCell(6))
    run("vanilla", C.BasicRNNCell(6))
    run("residual", C.MultiRNNCell([C.ResidualWrapper(C.GRUCell(5)), C.DropoutWrapper(C.GRUCell(5), output_keep_prob=1.0)]))
    run("lnlstm", crnn.LayerNormBasicLSTMCell(6))
    run("block", crnn.LSTMBlockCell(6, use_peephole=True))
    run("cudnn_lstm", cudnn_rnn.CudnnCompatibleLSTMCell(6))
    run("cudnn_gru", cudnn_rnn.CudnnCompatibleGRUCell(6))
    with tf.variable_scope("bi"):
        (f, b), (sf, sb) = tf.nn.bidirectional_dynamic_rnn(C.LSTMCell(6), C.GRUCell(4), x, sequence_length=n, dtype=tf.float32)
        ends["bi_fw"], ends["bi_bw"] = f, b
        ends.update(flat("bi_fw_state", sf)); ends.update(flat("bi_bw_state", sb))
    with tf.variable_scope("stacked"):
        y, _, _ = crnn.stack_bidirectional_dynamic_rnn([C.BasicLSTMCell(4), C.BasicLSTMCell(3)], [C.BasicLSTMCell(4), C.BasicLSTMCell(3)],
                                                      x, sequence_length=n, dtype=tf.float32)
        ends["stacked_out"] = y
    with tf.variable_scope("keras"):      # full length (no mask)
        k = tf.keras.layers
        ends["keras_lstm_v1"] = k.LSTM(6, return_sequences=True, name="lstm_v1")(x)                                   # hard_sigmoid
        ends["keras_lstm_sig"] = k.LSTM(6, return_sequences=True, recurrent_activation="sigmoid", name="lstm_sig")(x)
        ends["keras_gru_v1"] = k.GRU(6, return_sequences=True, name="gru_v1")(x)                                      # hard_sigmoid, reset_after=False
        ends["keras_gru_after"] = k.GRU(6, return_sequences=True, reset_after=True, recurrent_activation="sigmoid", name="gru_after")(x)
    return ends


def main():
    d, args = parse_out(NAME)
    x = tf.placeholder(tf.float32, [B, T, D])
    n = tf.placeholder(tf.int32, [B])
    ends = build(x, n)
    gs = tf.train.get_or_create_global_step()
    train = tf.train.AdamOptimizer(1e-3).minimize(tf.add_n([tf.reduce_sum(v ** 2) for v in ends.values()]), gs)
    xv = np.random.RandomState(13).normal(0, 1, (B, T, D)).astype(np.float32)
    with session() as sess:
        randomise(sess, overrides={"global_step": np.int64(4242)}, scales={"lnlstm/rnn/layer_norm_basic_lstm_cell/kernel": 0.01})
        o = sess.run(ends, {x: xv, n: LEN})
        tf.train.Saver(save_relative_paths=True).save(sess, os.path.join(d, "model.ckpt"), write_meta_graph=False)
    np.savez_compressed(os.path.join(d, "oracle.npz"), x=xv, seq_len=np.array(LEN, np.int32), **o)
    write_vars_json(d, dump=args.dump, name=NAME)
    report(d)


if __name__ == "__main__":
    main()
