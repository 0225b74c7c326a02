"""Optimizers of TensorFlow 1.15, two steps old: their slots, and three further steps.

Each has variables of its own in a scope that is called like it. Gradients are given, so
that a difference is one of the rule. Those that are not part of TensorFlow are written
as their sources have them: BERT's optimization.py, ALBERT's lamb_optimizer.py, and
mesh_tensorflow/optimize.py (Adafactor).
"""
from _common import *

NAME = "optimizers"
SHAPES = {"w": [6, 4], "b": [4]}
STEPS_BEFORE, STEPS = 2, 3


class AdamWeightDecay(object):
    """google-research/bert, optimization.py, `AdamWeightDecayOptimizer`."""

    def __init__(self, rate, decay=0.01, b1=0.9, b2=0.999, eps=1e-6, names=("adam_m", "adam_v")):
        self.rate, self.decay, self.b1, self.b2, self.eps, self.names = rate, decay, b1, b2, eps, names

    def decays(self, name):
        return not name.endswith("/b")

    def scale(self, param, update):
        return self.rate * update

    def apply_gradients(self, pairs):
        ops = []
        for grad, param in pairs:
            m, v = [tf.get_variable(param.op.name + "/" + n, param.shape, trainable=False,
                                    initializer=tf.zeros_initializer()) for n in self.names]
            next_m = tf.multiply(self.b1, m) + tf.multiply(1.0 - self.b1, grad)
            next_v = tf.multiply(self.b2, v) + tf.multiply(1.0 - self.b2, tf.square(grad))
            update = next_m / (tf.sqrt(next_v) + self.eps)
            if self.decays(param.op.name):
                update += self.decay * param
            ops += [param.assign(param - self.scale(param, update)), m.assign(next_m), v.assign(next_v)]
        return tf.group(*ops)


class Lamb(AdamWeightDecay):
    """google-research/albert, lamb_optimizer.py, `LAMBOptimizer`."""

    def scale(self, param, update):
        ratio = 1.0
        if self.decays(param.op.name):
            w_norm, g_norm = tf.norm(param, ord=2), tf.norm(update, ord=2)
            ratio = tf.where(tf.greater(w_norm, 0), tf.where(tf.greater(g_norm, 0), w_norm / g_norm, 1.0), 1.0)
        return ratio * self.rate * update


class Adafactor(object):
    """mesh_tensorflow/optimize.py, `AdafactorOptimizer`, factored from 4 elements on."""

    def __init__(self, rate, step):
        self.rate, self.step = rate, step

    def apply_gradients(self, pairs):
        ops = []
        for grad, var in pairs:
            decay = 1.0 - tf.pow(tf.cast(self.step + 1, tf.float32), -0.8)
            rms = lambda x: tf.sqrt(tf.reduce_mean(tf.square(x)))
            squared = tf.square(grad) + 1e-30
            rate = tf.maximum(rms(var), 1e-3) * self.rate
            slot = lambda kind, shape: tf.get_variable(
                var.op.name + "_slot_" + kind, shape, trainable=False, initializer=tf.zeros_initializer())
            if len(var.shape) == 2:    # the first axis is the longer one
                vr, vc = slot("vr", [var.shape[1]]), slot("vc", [var.shape[0]])
                new_vr = vr * decay + tf.reduce_mean(squared, 0) * (1.0 - decay)
                new_vc = vc * decay + tf.reduce_mean(squared, 1) * (1.0 - decay)
                x = grad * tf.rsqrt(new_vr / tf.reduce_mean(new_vr))[None] * tf.rsqrt(new_vc)[:, None]
                ops += [vr.assign(new_vr), vc.assign(new_vc)]
            else:
                v = slot("v", var.shape)
                new_v = v * decay + squared * (1.0 - decay)
                x = grad * tf.rsqrt(new_v)
                ops += [v.assign(new_v)]
            x /= tf.maximum(1.0, rms(x) / 1.0)
            ops += [var.assign(var - x * rate)]
        return tf.group(*ops)


def optimizers(step):
    train = tf.train
    return [
        ("sgd", train.GradientDescentOptimizer(0.1)),
        ("momentum", train.MomentumOptimizer(0.1, 0.9)),
        ("nesterov", train.MomentumOptimizer(0.1, 0.9, use_nesterov=True)),
        ("rmsprop", train.RMSPropOptimizer(0.01, momentum=0.9)),
        ("rmsprop_plain", train.RMSPropOptimizer(0.01)),
        ("rmsprop_centred", train.RMSPropOptimizer(0.01, momentum=0.9, centered=True)),
        ("adagrad", train.AdagradOptimizer(0.1)),
        ("adadelta", train.AdadeltaOptimizer(1.0)),
        ("adam", train.AdamOptimizer(0.01)),
        ("adam_epsilon", train.AdamOptimizer(0.01, epsilon=1e-3)),
        ("ftrl", train.FtrlOptimizer(0.1, l1_regularization_strength=0.05, l2_regularization_strength=0.02,
                                     l2_shrinkage_regularization_strength=0.01)),
        ("bert", AdamWeightDecay(0.01)),
        ("albert", Lamb(0.01, names=("lamb_m", "lamb_v"))),
        ("adafactor", Adafactor(0.01, step)),
    ]


class Training(object):
    """All optimizers in one graph, each with its variables.

    Attributes:
        feeds: Placeholders of the gradients of all optimizers, by variable.
        variables: All of them.
        advance: One step of all.
    """

    def __init__(self):
        step = tf.train.get_or_create_global_step()
        self.feeds, self.variables = {k: [] for k in SHAPES}, []
        updates = []
        for name, optimizer in optimizers(step):
            pairs = []
            for short, shape in sorted(SHAPES.items()):
                with tf.variable_scope("of_" + name):
                    self.variables.append(tf.get_variable(short, shape))
                self.feeds[short].append(tf.placeholder(tf.float32, shape))
                pairs.append((self.feeds[short][-1], self.variables[-1]))
            with tf.name_scope("of_" + name + "/"):    # powers of betas get it; slots have it already
                updates.append(optimizer.apply_gradients(pairs))
        with tf.control_dependencies(updates):
            self.advance = step.assign_add(1)

    def run(self, sess, grads):
        """One step; grads by variable."""
        sess.run(self.advance, {p: grads[k] for k, ps in self.feeds.items() for p in ps})

    def values(self, sess):
        return {v.op.name: sess.run(v) for v in self.variables}


def continue_training(prefix, grads):
    """Restores a checkpoint, takes a step for each of some gradients, gives the variables."""
    with tf.Graph().as_default():
        training = Training()
        with session() as sess:
            tf.train.Saver().restore(sess, prefix)
            for i in range(len(grads["w"])):
                training.run(sess, {k: g[i] for k, g in grads.items()})
            return training.values(sess)


def main():
    d, args = parse_out(NAME)
    training = Training()
    r = np.random.RandomState(3)
    # Of all sizes, each element of one, since epsilons matter beside small gradients.
    sizes = {k: 10 ** r.uniform(-3.5, 0, s) for k, s in SHAPES.items()}
    grads = {k: (r.normal(0, 1, [STEPS_BEFORE + STEPS] + s) * sizes[k]).astype("f4") for k, s in SHAPES.items()}
    record = {"grads/" + k: g[STEPS_BEFORE:] for k, g in grads.items()}
    with session() as sess:
        sess.run(tf.global_variables_initializer())
        for v in training.variables:
            v.load(rng_for(v.op.name.split("/")[1]).normal(0, 0.3, v.shape.as_list()).astype("f4"), sess)
        for i in range(STEPS_BEFORE + STEPS):
            if i == STEPS_BEFORE:
                tf.train.Saver(save_relative_paths=True).save(
                    sess, os.path.join(d, "model.ckpt"), write_meta_graph=False)
            training.run(sess, {k: g[i] for k, g in grads.items()})
        record.update({"after/" + name: value for name, value in training.values(sess).items()})
    np.savez_compressed(os.path.join(d, "oracle.npz"), **record)
    report(d)


if __name__ == "__main__":
    main()
