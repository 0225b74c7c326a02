"""Losses of BERT in TensorFlow 1.15, trained on from `../bert` by its own optimizer.

Three steps, and the losses of two further ones: what a checkpoint that was written
after three steps must give as well. `continue_losses` is what the oracle tests run.
"""
from _common import *
import bert
from optimizers import AdamWeightDecay

NAME = "finetune"
RATE = 0.02
LABELS = [0, 1, 0]


class Optimizer(AdamWeightDecay):
    """With what `exclude_from_weight_decay` says in run_classifier.py."""

    def decays(self, name):
        return not any(part in name for part in ("LayerNorm", "layer_norm", "bias"))


def continue_losses(prefix, inputs, steps):
    """Restores a checkpoint, and gives the loss before each of some steps."""
    with tf.Graph().as_default():
        ids, mask, types = [tf.constant(inputs[k], tf.int32) for k in ("input_ids", "input_mask", "token_type_ids")]
        nsp = bert.build(ids, mask, types)[-1]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=LABELS, logits=nsp))
        variables = tf.trainable_variables()
        step = tf.train.get_or_create_global_step()
        # Dense, since TensorFlow counts each use of an embedding's row in the norm by itself.
        grads = [None if g is None else tf.convert_to_tensor(g) for g in tf.gradients(loss, variables)]
        grads, _ = tf.clip_by_global_norm(grads, clip_norm=1.0)
        pairs = [(g, v) for g, v in zip(grads, variables) if g is not None]
        train = tf.group(Optimizer(RATE).apply_gradients(pairs), step.assign_add(1))
        with session() as sess:
            tf.train.Saver().restore(sess, prefix)
            losses = []
            for _ in range(steps):
                losses.append(sess.run(loss))
                sess.run(train)
            return np.array(losses, "f4"), int(sess.run(step))


if __name__ == "__main__":
    d, args = parse_out(NAME)
    data = os.path.join(os.path.dirname(HERE), "bert")
    losses, step = continue_losses(
        os.path.join(data, "model.ckpt"), np.load(os.path.join(data, "oracle.npz")), 5)
    print(losses, step)
    np.savez(os.path.join(d, "oracle.npz"), labels=np.array(LABELS, "i4"), losses=losses)
    report(d)
