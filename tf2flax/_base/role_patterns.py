"""Spellings of the names of slots, averages and counters: patterns alone.

What a tensor is to its training, `roles` decides, by these and by what lies around it.
"""

from __future__ import annotations

import re
from typing import Final

# Keys of TF2's checkpoints: how that of a variable's value ends, and what stands
# between the paths of a variable and of its slot.
# Source: tensorflow/python/checkpoint/trackable_utils.py.
VARIABLE_SUFFIX: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
SLOT_MARKER: Final = "/.OPTIMIZER_SLOT/"
# Names that optimizers of TensorFlow give to the slots of a variable, as its children.
# The name is the optimizer's, which a user may choose (`dqn_adam_1`,
# `policy_optimizer`), or the slot's.
_OPTIMIZER: Final = (
    r"(nadam|adam|adamax|lamb|lars|momentum|rmsprop|adagrad|adadelta|ftrl"
    r"|proximaladagrad|adafactor)"
)
# What a slot is for its variable, whatever the optimizer is called: words that layers
# have as well.
PLAIN_SLOT: Final = re.compile(
    r"(vr|vc|v|m|vhat|mg|accumulator|linear|rms|momentum|accum_grad|accum_var"
    r"|gradient_squared_accumulator|gradient_accumulator)(_\d+)?"
)
SLOT: Final = re.compile(
    rf"(?i:(.*_)?{_OPTIMIZER}\w*|\w*optimizer(_\d+)?)|{PLAIN_SLOT.pattern}"
)
# Those which nobody would call anything else. Behind an optimizer's name stands a kind
# of it (`MomentumW`), and what the slot is (`adam_m`, `Adam_1`); of other words behind
# it (`Adam_policy`, `momentum_encoder`), more has to be known.
CERTAIN_SLOT: Final = re.compile(
    rf"(?i:(.*_)?{_OPTIMIZER}(w|da)?(_?weight_?decay)?(_?optimizer)?(_[mv])?(_\d+)?"
    rf"|\w*optimizer(_\d+)?)|{PLAIN_SLOT.pattern}"
)
# Scopes of optimizers and of averages, which no layer is called by.
# Source: tensorflow/contrib/layers/python/layers/optimizers.py (`OptimizeLoss`);
# tensorflow/python/keras/optimizer_v2/optimizer_v2.py (`training/Adam`).
TRAINING_SCOPE: Final = re.compile(
    rf"(?i:(.*/)?(train(ing)?(_op)?|optimize_?loss|eval|ema|moving_averages?|\w*optimizer|{_OPTIMIZER})(_\d+)?)",
    re.S,
)
# Slots of Adafactor, which lack a dimension of their variable.
FACTORED: Final = re.compile(r"(vr|vc|slot_vr|slot_vc)(_\d+)?|(?i:.*adafactor\w*)")
# The slots that Mesh TensorFlow's Adafactor appends to a variable's name.
SLOT_SUFFIX: Final = re.compile(r"(?P<variable>.+)_(?P<slot>slot_(vr|vc|v|m))", re.S)
AVERAGE: Final = "ExponentialMovingAverage"
AVERAGES: Final = re.compile(rf"{AVERAGE}(_\d+)?|EMA|local_step|biased")
# What a moving average keeps besides, to undo the bias of its first steps.
DEBIASING: Final = frozenset({"local_step", "biased"})
POWER: Final = re.compile(r"beta[12]_power(_\d+)?")
COUNTER: Final = re.compile(r"(global_step|iter|_?iterations?|save_counter)(_\d+)?")
# How optimizers call their own counter; what lies beside one belongs to an optimizer.
ITERATIONS: Final = ("iter", "iterations", "iteration", "_iterations")
SETTING: Final = re.compile(
    r"_?learning_rate|current_learning_rate|lr|(initial_)?decay|beta|beta_[12]|rho"
    r"|momentum|momentum_cache|epsilon|weight_decay(_rate)?|learning_rate_power"
    r"|l[12]_regularization_strength"
)
# Slots that Keras 1 and early Keras 2 number in the order of the model's weights, and
# variables of a Keras 3 optimizer under their stored names: no name says of what.
NUMBERED: Final = re.compile(
    r"(.*/)?training(_\d+)?/(SGD|RMSprop|Adagrad|Adadelta|Adam|Adamax|Nadam)(_\d+)?"
    r"/(Variable|m|v|vhat|moment|accumulator|delta_accumulator)(_\d+)?"
    r"|(.*/)?_?optimizer/(_variables|vars)/\d+|(.*/)?optimizer_weights/.*",
    re.S,
)
# Where a `tf.train.Checkpoint` has the variables of a Keras 3 optimizer, slots as well;
# the optimizer is an attribute of any name.
OPTIMIZER_LIST: Final = re.compile(
    rf"(?P<optimizer>(.*/)?)_variables/[0-9]+{re.escape(VARIABLE_SUFFIX)}", re.S
)
# What Keras measures: the metrics of a SavedModel, and those in files of weights.
# Source: keras/saving/legacy/saved_model/layer_serialization.py (`keras_api`);
# keras/src/saving/saving_lib.py.
METRIC: Final = re.compile(
    r"(.*/)?keras_api/metrics/\d+/.+|metrics/[^/]+/vars/\d+", re.S
)
# Where a generator of random numbers stands, by its name and in files of weights.
# Source: keras/src/random/seed_generator.py.
SEED: Final = re.compile(
    r"(.*/)?seed_generator(_\d+)?/(seed_generator_state|vars/\d+)", re.S
)
# The end of the name of a partition, in what the writer has left of a slot's name.
PARTITION: Final = re.compile(r"\d+$")

# Slots of the optimizers of Keras 3 and tf.keras, as their variables' names have them.
# Source: keras/src/optimizers/*.py.
KERAS_SLOTS: Final = frozenset(
    (
        *("momentum", "velocity", "velocity_hat", "average", "gradient_accumulator"),
        *("average_gradient", "accumulator", "accumulated_grad", "norm", "linear"),
        *("accumulated_delta_var", "m", "v", "vhat", "u", "r", "c", "moment"),
        *("accum_grad", "accum_var"),
    )
)
# How Keras 3 joins the names of a variable and of its slot: `dense_kernel_velocity`.
FLAT_SLOT: Final = re.compile(rf".+_({'|'.join(sorted(KERAS_SLOTS))})(_\d+)?", re.S)
