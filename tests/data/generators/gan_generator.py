"""GAN-like generator: transposed convolutions, layer/instance/group norm, spectral norm, legacy resizes, conv1d/conv3d."""
from _common import *
from tensorflow.contrib import layers as cl

NAME = "gan_generator"
B = 2
KEPT = ("fc", "deconv_s2k5", "gnorm", "sn_conv", "image")


def spectral(w, name):
    """one stored left vector u; sigma computed by one power step, no update (inference)"""
    m = tf.reshape(w, [-1, w.shape[-1].value])
    u = tf.get_variable(name, [1, w.shape[-1].value], trainable=False)
    v = tf.nn.l2_normalize(tf.matmul(u, m, transpose_b=True))
    u2 = tf.nn.l2_normalize(tf.matmul(v, m))
    sigma = tf.matmul(tf.matmul(v, m), u2, transpose_b=True)[0, 0]
    return w / sigma


def build(z, label):
    L, e = tf.layers, {}
    with tf.variable_scope("generator"):
        emb = tf.get_variable("label_emb/embedding_map", [6, 4])
        x = tf.concat([z, tf.gather(emb, label)], 1)
        x = L.dense(x, 4 * 5 * 12, name="fc")
        x = tf.reshape(x, [B, 4, 5, 12])
        x = tf.nn.leaky_relu(L.batch_normalization(x, training=False, name="bn0"))           # slope 0.2, eps 1e-3
        e["fc"] = x
        x = L.conv2d_transpose(x, 10, 5, strides=2, padding="same", name="deconv_s2k5")      # DCGAN style
        e["deconv_s2k5"] = x
        x = tf.nn.relu(cl.instance_norm(x, scope="InstanceNorm"))                            # eps 1e-6
        e["inorm"] = x
        x = L.conv2d_transpose(x, 8, [4, 3], strides=(2, 1), padding="same", use_bias=False, name="deconv_k4x3_s2x1")
        e["deconv_k4x3"] = x
        x = tf.nn.elu(cl.layer_norm(x, scope="LayerNorm"))                                   # over H,W,C together; params on C; eps 1e-12
        e["lnorm"] = x
        x = L.conv2d_transpose(x, 6, 3, strides=2, padding="valid", name="deconv_valid")
        e["deconv_valid"] = x
        x = tf.tanh(cl.group_norm(x, groups=3, scope="GroupNorm"))                           # eps 1e-6
        e["gnorm"] = x
        y = L.conv2d_transpose(x, 4, 2, strides=3, padding="same", name="deconv_stride_gt_kernel")
        e["deconv_sgk_same"] = y
        e["deconv_sgk_valid"] = L.conv2d_transpose(x, 4, 2, strides=3, padding="valid", name="deconv_stride_gt_kernel", reuse=True)
        # explicit odd output size: 33x21 -> 65x41 with stride 2 SAME
        w = tf.get_variable("deconv_raw/w", [4, 4, 5, 6])
        h, wd = x.shape[1].value, x.shape[2].value
        x = tf.nn.conv2d_transpose(x, w, [B, 2 * h - 1, 2 * wd - 1, 5], [1, 2, 2, 1], "SAME")
        x = tf.nn.bias_add(x, tf.get_variable("deconv_raw/biases", [5]))
        e["deconv_raw_odd"] = x
        x = x[:, ::3, ::3]                                                                     # keep it small
        x = tf.nn.selu(x)
        # spectral-normalised conv, reflect padding
        with tf.variable_scope("sn_conv"):
            w = tf.get_variable("w", [3, 3, 5, 8])
            x = tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"), spectral(w, "u"), [1, 1, 1, 1], "VALID")
            x = tf.nn.bias_add(x, tf.get_variable("bias", [8]))
        e["sn_conv"] = x
        a = tf.get_variable("prelu/alpha", [8])
        x = tf.nn.relu(x) - a * tf.nn.relu(-x)
        e["prelu"] = x
        e["resize_nearest"] = tf.image.resize_nearest_neighbor(x, [17, 30])
        e["resize_bilinear"] = tf.image.resize_bilinear(x, [17, 30])                           # legacy: no half-pixel centres
        e["resize_bilinear_align"] = tf.image.resize_bilinear(x, [17, 30], align_corners=True)
        e["depth_to_space"] = tf.depth_to_space(x, 2)
        img = L.conv2d(tf.depth_to_space(x, 2), 3, 4, strides=2, padding="same", activation=tf.tanh, name="to_rgb")
        e["image"] = img
    with tf.variable_scope("extra"):
        t = tf.reshape(img[:, :8, :8], [B, 8, 24])
        t = L.conv1d(t, 9, 3, strides=2, padding="same", name="conv1d")
        e["conv1d"] = t
        t = L.conv1d(t, 4, 2, dilation_rate=2, padding="valid", activation=tf.nn.softplus, name="conv1d_dil")
        e["conv1d_dil"] = t
        c = tf.reshape(img[:, :4, :4], [B, 4, 4, 3, 1])
        c = L.conv3d(c, 3, [2, 3, 3], strides=[2, 1, 1], padding="same", name="conv3d")
        e["conv3d"] = c
        c = L.conv3d_transpose(c, 2, [3, 2, 3], strides=[2, 2, 1], padding="same", name="conv3d_transpose")
        e["conv3d_transpose"] = c
    return e


def main():
    d, _ = parse_out(NAME)
    z = tf.placeholder(tf.float32, [B, 16]); lab = tf.placeholder(tf.int32, [B])
    e = build(z, lab)
    gs = tf.train.get_or_create_global_step()
    tf.train.AdamOptimizer(2e-4, beta1=0.5).minimize(tf.add_n([tf.reduce_sum(t) for t in e.values()]), gs)
    r = np.random.RandomState(16)
    feed = {z: r.normal(0, 1, (B, 16)).astype(np.float32), lab: np.array([4, 1], np.int32)}
    with session() as sess:
        randomise(sess, overrides={"global_step": np.int64(51)},
                  scales={"generator/%s/" % n: 0.01 for n in ("deconv_s2k5", "deconv_k4x3_s2x1", "deconv_valid")})
        o = sess.run(e, feed)
        tf.train.Saver(save_relative_paths=True).save(sess, os.path.join(d, "model.ckpt"), write_meta_graph=False)
    np.savez_compressed(os.path.join(d, "oracle.npz"), z=feed[z], label=feed[lab], **{k: o[k] for k in KEPT})
    report(d)


if __name__ == "__main__":
    main()
