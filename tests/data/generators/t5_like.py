"""T5 v1.0 forward with the mesh-tensorflow variable names, Adafactor slot names."""
import math
from _common import *

NAME = "t5_like"
V, D, A, K, F, L, NB, MAXD = 60, 24, 3, 10, 48, 2, 32, 128
B, SI, SO = 2, 40, 36      # long enough for the logarithmic relative-position buckets
SI_REAL = [40, 23]


def rms(x, name):
    with tf.variable_scope(name):
        s = tf.get_variable("scale", [D], initializer=tf.ones_initializer())
    return x * tf.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6) * s


def bucket(rel, bidirectional):
    """rel = memory position - query position (numpy)"""
    n, out, nb = -rel, 0, NB
    if bidirectional:
        nb //= 2
        out = (n < 0).astype(np.int32) * nb
        n = np.abs(n)
    else:
        n = np.maximum(n, 0)
    exact = nb // 2
    large = exact + (np.log(np.maximum(n, 1).astype(np.float32) / exact) / math.log(MAXD / exact) * (nb - exact)).astype(np.int32)
    return out + np.where(n < exact, n, np.minimum(large, nb - 1))


def attention(x, mem, mask, pos, name):
    with tf.variable_scope(name):
        gv = lambda n, s: tf.get_variable(n, s)
        mem = x if mem is None else mem
        q, k, v, o = gv("q", [D, A * K]), gv("k", [D, A * K]), gv("v", [D, A * K]), gv("o", [A * K, D])
        sp = lambda t, w: tf.transpose(tf.reshape(tf.tensordot(t, w, 1), [B, -1, A, K]), [0, 2, 1, 3])
        s = tf.matmul(sp(x, q), sp(mem, k), transpose_b=True) + mask           # no 1/sqrt(d)
        if pos is not None:
            s = s + pos
        c = tf.reshape(tf.transpose(tf.matmul(tf.nn.softmax(s), sp(mem, v)), [0, 2, 1, 3]), [B, -1, A * K])
        return tf.tensordot(c, o, 1)


def ffn(x):
    with tf.variable_scope("DenseReluDense"):
        wi = tf.get_variable("wi/kernel", [D, F]); wo = tf.get_variable("wo/kernel", [F, D])
    return tf.tensordot(tf.nn.relu(tf.tensordot(x, wi, 1)), wo, 1)


def relbias(sq, sk, bidir):
    with tf.variable_scope("SelfAttention", reuse=tf.AUTO_REUSE):
        w = tf.get_variable("relative_attention_bias", [A, NB])
    b = bucket(np.arange(sk)[None] - np.arange(sq)[:, None], bidir)
    return tf.gather(w, b, axis=1)[None]                                       # [1, heads, q, k]


def build(src, mask, dec_in):
    emb = tf.get_variable("shared/embedding", [V, D])
    neg = (1.0 - mask)[:, None, None, :] * -1e9
    x, pos = tf.gather(emb, src), None
    with tf.variable_scope("encoder"):
        for i in range(L):
            with tf.variable_scope("block_%03d" % i):
                with tf.variable_scope("layer_000"):
                    pos = relbias(SI, SI, True) if pos is None else pos         # block 0 owns the table, all blocks add it
                    x = x + attention(rms(x, "layer_norm"), None, neg, pos, "SelfAttention")
                with tf.variable_scope("layer_001"):
                    x = x + ffn(rms(x, "layer_norm"))
        enc = rms(x, "final_layer_norm")
    causal = tf.constant((1 - np.tril(np.ones((SO, SO), np.float32)))[None, None] * -1e9)
    x, pos = tf.gather(emb, dec_in), None
    with tf.variable_scope("decoder"):
        for i in range(L):
            with tf.variable_scope("block_%03d" % i):
                with tf.variable_scope("layer_000"):
                    pos = relbias(SO, SO, False) if pos is None else pos
                    x = x + attention(rms(x, "layer_norm"), None, causal, pos, "SelfAttention")
                with tf.variable_scope("layer_001"):
                    if i == 0:      # present in the published checkpoints, not used by the forward pass
                        tf.get_variable("EncDecAttention/relative_attention_bias", [A, NB])
                    x = x + attention(rms(x, "layer_norm"), enc, neg, None, "EncDecAttention")
                with tf.variable_scope("layer_002"):
                    x = x + ffn(rms(x, "layer_norm"))
        x = rms(x, "final_layer_norm")
    logits = tf.tensordot(x * D ** -0.5, emb, [[2], [1]])
    return dict(encoder_output=enc, decoder_output=x, logits=logits)


def main():
    d, _ = parse_out(NAME)
    src = tf.placeholder(tf.int32, [B, SI]); mask = tf.placeholder(tf.float32, [B, SI]); tgt = tf.placeholder(tf.int32, [B, SO])
    e = build(src, mask, tgt)
    for v in tf.trainable_variables():
        s, n = v.shape.as_list(), v.op.name
        if len(s) == 2:
            tf.get_variable(n + "_slot_vr", [s[0]], trainable=False); tf.get_variable(n + "_slot_vc", [s[1]], trainable=False)
        else:
            tf.get_variable(n + "_slot_v", s, trainable=False)
    tf.get_variable("global_step", [], dtype=tf.int32, trainable=False, initializer=tf.zeros_initializer())
    r = np.random.RandomState(18)
    s = r.randint(1, V, (B, SI)).astype(np.int32)
    m = (np.arange(SI)[None] < np.array(SI_REAL)[:, None]).astype(np.float32)
    s = (s * m).astype(np.int32)
    t = r.randint(1, V, (B, SO)).astype(np.int32); t[:, 0] = 0
    with session() as sess:
        randomise(sess, overrides={"global_step": np.int32(1000000)})
        o = sess.run(e, {src: s, mask: m, tgt: t})
        tf.train.Saver(save_relative_paths=True).save(sess, os.path.join(d, "model.ckpt-1000000"), write_meta_graph=False)
    np.savez_compressed(os.path.join(d, "oracle.npz"), inputs=s, mask=m, decoder_inputs=t, **o)
    report(d)


if __name__ == "__main__":
    main()
