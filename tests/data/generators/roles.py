"""The roles of tensors, written down from the code of the models: `tests/data/roles/*.txt`.

    python tests/data/generators/roles.py FOLDER    # with `real/` and `zoo/`

For each checkpoint, RULES say what the model's code makes: which tensors its optimizer
trains, and what that optimizer makes for each; which tensors count steps. Names and
shapes come from the files, roles from here. A name that no rule explains, or a slot
that should be there and is not, is an error. tf2flax says only which names there are.

Lines of the tables: `variable SHAPE NAME [SLOT ...]`, `optimizer NAME`, `counter NAME`,
`metric NAME`, `lost SHAPE NAME` (a slot of which nothing tells the variable). A slot is written as it
is spelled, with `*` for its variable; `~` before it is an average, `:0` behind it lacks
that axis. `{0..3}` stands for numbers.
"""

from __future__ import annotations

import collections
import itertools
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import tf2flax

OUT: Final = pathlib.Path(__file__).resolve().parents[1] / "roles"
ADAM: Final = ("*/Adam", "*/Adam_1")
POWERS: Final = r"beta[12]_power"
STATISTICS: Final = r".*/moving_(mean|variance)"
SUFFIX: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
OBJECT_SLOT: Final = "*/.OPTIMIZER_SLOT/{}/{}" + SUFFIX


class Model(NamedTuple):
    """What the code of a model makes.

    Attributes:
        about: The code.
        slots: Regexes of variables, with the slots that each of them has; the first
            that matches counts.
        optimizer: Regex of what an optimizer keeps for all variables.
        counters: Regex of counters of steps.
        lost: Regex of slots that only the code can tell the variable of.
        metrics: Regex of what Keras measures.
    """

    about: str
    slots: Sequence[tuple[str, Sequence[str]]] = ()
    optimizer: str = ""
    counters: str = ""
    lost: str = ""
    metrics: str = rf"keras_api/metrics/.*{SUFFIX}"


def of_objects(optimizer: str, *slots: str) -> tuple[str, ...]:
    return tuple(OBJECT_SLOT.format(optimizer, slot) for slot in slots)


PLAIN = Model("weights alone")
KERAS_2 = (rf"optimizer/(beta_[12]|decay|learning_rate|momentum|rho|weight_decay_rate){SUFFIX}",
           rf"(optimizer/iter|save_counter){SUFFIX}")
KERAS_ADAM = [
    (r"layer_with_weights.*/moving_.*", ()),
    (rf"layer_with_weights.*{SUFFIX}", of_objects("optimizer", "m", "v")),
]
BERT = [(r".*", ("*/adam_m", "*/adam_v"))]
PPO = "agent/{}/optimizer/optimizer/tf_optimizer"

RULES: dict[str, Model] = {
    "real/carnd_lenet5/files/lenet5": Model(
        "LeNet-5: tf.Variable without names, AdamOptimizer", [("Variable.*", ADAM)], POWERS),
    "real/dotnet_cifar_ckpt/files/model.ckpt": Model(
        "CNN for CIFAR: AdamOptimizer", [(".*", ADAM)], POWERS),
    "real/dotnet_cifar_savedmodel/files/variables/variables": Model(
        "the same", [(".*", ADAM)], POWERS),
    "real/har_lstm_v1/files/model.ckpt": Model(
        "LSTM of 2016: AdamOptimizer", [(".*", ADAM)], POWERS),
    "real/har_module_v1/files/model.ckpt": Model(
        "LSTM of 2016: AdamOptimizer", [(".*", ADAM)], POWERS),
    "real/keras_bert_tiny/files/bert_model.ckpt": Model(
        "google-research/bert: AdamWeightDecayOptimizer", BERT, "", "global_step"),
    "real/minitaur_ppo/files/model.ckpt-14000000": Model(
        "google-research/batch-ppo: two AdamOptimizers, which have names; powers are made "
        "in loops. Buffers and normalisations are variables",
        [("network/rnn/policy/.*", ("*/policy_optimizer", "*/policy_optimizer_1")),
         ("network/rnn/value/.*", ("*/value_optimizer", "*/value_optimizer_1"))],
        rf"end_episode/.*/{POWERS}", "global_step"),
    "real/musicnn_mtt/files/": Model(
        "tf.layers: AdamOptimizer", [(STATISTICS, ()), (".*", ADAM)], POWERS),
    "real/rlcard_nfsp/files/model": Model(
        "rlcard NFSP: in the scope of each agent, a DQN with AdamOptimizer(name='dqn_adam') "
        "over both networks, and a policy with AdamOptimizer(name='nfsp_adam')",
        [(STATISTICS, ()),
         ("nfsp0/sl/.*", ("nfsp0/sl/*/nfsp_adam", "nfsp0/sl/*/nfsp_adam_1")),
         ("nfsp1/sl/.*", ("nfsp1/sl/*/nfsp_adam", "nfsp1/sl/*/nfsp_adam_1")),
         ("nfsp0/.*", ("nfsp0/*/dqn_adam", "nfsp0/*/dqn_adam_1")),
         ("nfsp1/.*", ("nfsp1/*/dqn_adam", "nfsp1/*/dqn_adam_1"))],
        rf"nfsp[01]/(sl/)?{POWERS}(_1)?", "global_step"),
    "real/t2t_transformer_sharded/files/model.ckpt-1": Model(
        "tensor2tensor, optimize() in the scope `training`: AdamOptimizer; running losses",
        [("(losses_avg|train_stats)/.*", ()), (".*", ("training/*/Adam", "training/*/Adam_1"))],
        rf"training/{POWERS}", "global_step"),
    "real/tfx_taxi_estimator/files/model.ckpt-1000": Model(
        "DNNLinearCombinedClassifier: tf.keras Ftrl and Adagrad",
        [("dnn/.*", ("training/Adagrad/*/accumulator",)),
         ("linear/.*", ("training/Ftrl/*/accumulator", "training/Ftrl/*/linear"))],
        "training/Adagrad/(decay|learning_rate)|training/Ftrl/(beta|decay|learning_rate"
        "(_power)?|l[12]_regularization_strength)", "global_step|training/Ftrl/iter"),
    "real/tfx_taxi_savedmodel/files/variables/variables": Model(
        "the same, exported", [], "", "global_step"),
    "real/tfdeploy_keras_1_13/files/variables/variables": Model(
        "Keras 1.13, SGD: `moments` are numbered; two models' layers are there",
        [], "SGD/(decay|lr|momentum)", "SGD/iterations", r"training/SGD/Variable(_1)?"),
    "real/ffn_fib25/files/model.ckpt-27465036": Model(
        "google/ffn: SGD; statistics are variables", [], "", "global_step"),
    "real/basic_pitch_nmp/files/variables/variables": Model(
        "tf.keras Adam", KERAS_ADAM, *KERAS_2),
    "real/captcha_cnn_sharded/files/variables/variables": Model(
        "tf.keras RMSprop", [("keras_api/.*", ()),
        (f"layer_with_weights.*{SUFFIX}", of_objects("optimizer", "rms"))], *KERAS_2),
    "real/kaggle_savedmodel/files/variables/variables": Model(
        "tf.keras Adam", KERAS_ADAM, *KERAS_2),
    "real/tfx_keras_savedmodel/files/variables/variables": Model(
        "tf.keras Adam", KERAS_ADAM, *KERAS_2),
    "real/deepconsensus_no_data/files/checkpoint-1": Model(
        "tf-models AdamWeightDecay", [(f"model/.*{SUFFIX}", of_objects("optimizer", "m", "v"))],
        *KERAS_2),
    "real/rust_regression/files/variables/variables": Model("tf.keras SGD", [], *KERAS_2),
    "real/tensorforce_ppo_ckpt/files/ppo-checkpoint-1": Model(
        "tensorforce PPO: two Adam; buffers and its own counts are variables",
        [("agent/baseline/.*", of_objects(PPO.format("baseline_optimizer"), "m", "v")),
         ("agent/policy/.*", of_objects(PPO.format("optimizer/optimizer"), "m", "v"))],
        rf"agent/.*optimizer/tf_optimizer/(beta_[12]|decay){SUFFIX}",
        rf"(save_counter|agent/.*optimizer/tf_optimizer/iter){SUFFIX}"),
    **{f"real/sonnet_{name}/files/checkpoint-1": Model(
        "Sonnet 2: moving averages of normalisations are variables", [], "",
        f"save_counter{SUFFIX}")
       for name in ("batch_norm_training", "cifar10_convnet", "conv2d_lstm", "lstm_8_projected")},
    **{f"real/{path}": PLAIN for path in (
        "g2p_model/files/model", "keras_gpt2_toy/files/model.ckpt",
        "keras_xlnet_tune/files/xlnet_model.ckpt", "serving_counter/files/variables/variables",
        "serving_half_plus_two_gpu_trt/files/variables/variables",
        "serving_half_plus_two_tf2/files/variables/variables", "sugyan_regression/files/regression.ckpt",
        "swift_style_index/files/style", "swift_transformer_index/files/transformer",
        "tf2onnx_regression/files/model", "tftext_segmenter_hub/files/variables/variables",
        "tfdeploy_mnist_tf1/files/variables/variables", "tfjs_int64_multiply/files/variables/variables",
        "java_using_python/files/variables/variables", "serving_session_bundle_v1/files/export-?????-of-00001",
    )},
    "zoo/bert/model.ckpt": Model("as google-research/bert", BERT, "", "global_step"),
    "zoo/resnet_slim/model.ckpt": Model(
        "slim: MomentumOptimizer over what is trained, ExponentialMovingAverage over that and "
        "moving statistics", [(STATISTICS, ("~*/ExponentialMovingAverage",)),
        (".*", ("*/Momentum", "~*/ExponentialMovingAverage"))], "", "global_step"),
    "zoo/lstm_gru/model.ckpt": Model("AdamOptimizer", [(".*", ADAM)], POWERS, "global_step"),
    "zoo/gan_generator/model.ckpt": Model(
        "AdamOptimizer; `u` of a spectral norm is not trained",
        [(STATISTICS + "|.*/sn_conv/u", ()), (".*", ADAM)], POWERS, "global_step"),
    "zoo/wide_deep_partitioned/model.ckpt": Model(
        "partitioned variables: FtrlOptimizer and AdagradOptimizer, sliced as their variables",
        [("dnn/.*", ("*/Adagrad",)), ("linear/.*", ("*/Ftrl", "*/Ftrl_1"))], "", "global_step"),
    "zoo/t5_like/model.ckpt-1000000": Model(
        "Mesh TensorFlow's Adafactor: factored for matrices",
        [(".*/layer_norm/scale|.*final_layer_norm/scale", ("*_slot_v",)),
         (".*", ("*_slot_vr:1", "*_slot_vc:0"))], "", "global_step"),
    "zoo/gpt2/model.ckpt": PLAIN,
    "zoo/sharded/ps.ckpt": Model(
        "AdamOptimizer; a table in slices", [(".*", ADAM)], POWERS, "global_step"),
    "zoo/sharded/model.ckpt": Model("weights alone", [], "", "global_step"),
    "zoo/v1_format/model.ckpt": Model("weights alone", [], "", "global_step"),
    "zoo/tf1_keras/name_based.ckpt": Model(
        "tf.keras in TF 1.15 with AdamOptimizer", [(STATISTICS, ()), (".*", ADAM)],
        POWERS, "save_counter"),
    "zoo/tf1_keras/slots.ckpt-1": Model(
        "the same, by objects", [(r".*/moving_.*", ()),
        ("model/.*", of_objects("optimizer", "m", "v"))],
        rf"optimizer/{POWERS}{SUFFIX}", f"save_counter{SUFFIX}"),
    "zoo/tf2_object/slots.ckpt": Model(
        "TF 2.21, AdamOptimizer of TF 1", [(f"model/(bf|counter|half|text){SUFFIX}", ()),
        ("model/.*", of_objects("optimizer", "m", "v"))], rf"optimizer/{POWERS}{SUFFIX}"),
    "zoo/names/model.ckpt": Model(
        "odd names: `dense/kernel/Adam` is shaped as a slot; `x/ExponentialMovingAverage` "
        "without `x`, and a `beta1_power` of rank 1, are not what they are called",
        [("dense/kernel", ADAM), ("x/ExponentialMovingAverage", ("~*/biased",))],
        "", "global_step"),
}  # fmt: skip


def slot_name(spelled: str, variable: str) -> str:
    """The name of a slot of a variable."""
    stem = variable.removesuffix(SUFFIX) if SUFFIX in spelled else variable
    return spelled.lstrip("~").partition(":")[0].replace("*", stem)


def table(path: str, folder: pathlib.Path, model: Model) -> str:
    """The table of one checkpoint."""
    checkpoint = tf2flax.open_checkpoint(folder / path if path[-1] != "/" else f"{folder}/{path}")
    specs = {name: checkpoint[name].entry.spec for name in checkpoint}
    shapes = {n: s.shape for n, s in specs.items() if not (s.dtype.is_string and "." in n)}
    shapes.pop("_CHECKPOINTABLE_OBJECT_GRAPH", None)
    lines: list[tuple[str, str, str]] = []
    left = dict(shapes)
    for role in ("optimizer", "counters", "metrics", "lost"):
        for name in [n for n in left if re.fullmatch(getattr(model, role) or "(?!)", n, re.S)]:
            lines.append((role.removesuffix("s"), "" if role != "lost" else shape_of(left[name]), name))
            del left[name]
    made: dict[str, str] = {}
    for name in left:
        for pattern, slots in model.slots:
            if re.fullmatch(pattern, name, re.S) and name not in made:
                # A slot is no variable, though patterns of variables match it too.
                made.update({slot_name(s, name): name for s in slots if slot_name(s, name) in left})
                break
    for name, shape in left.items():
        if name in made:
            continue
        slots = next((s for p, s in model.slots if re.fullmatch(p, name, re.S)), ())
        missing = [s for s in slots if slot_name(s, name) not in left]
        assert not missing, (path, name, missing)
        for spelled in slots:
            axis = spelled.partition(":")[2]
            expected = shape if not axis else shape[: int(axis)] + shape[int(axis) + 1 :]
            assert left[slot_name(spelled, name)] == expected, (path, name, spelled)
        lines.append((" ".join(("variable", *slots)), shape_of(shape), name))
    text = f"@ {path}\n# {model.about}\n"
    return text + "\n".join(compressed(lines)) + "\n"


def shape_of(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def compressed(lines: Iterable[tuple[str, str, str]]) -> list[str]:
    """Lines of which names differ by numbers alone as one, where all of them are there."""
    groups: dict[tuple[str, str, str], list[tuple[str, ...]]] = collections.defaultdict(list)
    for role, shape, name in lines:
        numbers = tuple(n for n in re.findall(r"\d+", name) )
        groups[role, shape, re.sub(r"\d+", "\0", name)].append(numbers)
    out: list[str] = []
    for (role, shape, template), all_numbers in groups.items():
        columns = [sorted(set(c), key=lambda n: (int(n), n)) for c in zip(*all_numbers, strict=True)]
        if len(all_numbers) > 1 and set(itertools.product(*columns)) == set(all_numbers):
            choices = [c[0] if len(c) == 1 else written(c) for c in columns]
            names = [filled(template, choices)]
        else:
            names = [filled(template, numbers) for numbers in all_numbers]
        kind, *slots = role.split(" ")
        out += ["\t".join((kind, shape, escaped(name), *slots)) for name in names]
    return out


def written(column: Sequence[str]) -> str:
    first, last = int(column[0]), int(column[-1])
    if list(column) == [str(n) for n in range(first, last + 1)]:
        return f"{{{first}..{last}}}"
    return "{" + ",".join(column) + "}"


def filled(template: str, numbers: Sequence[str]) -> str:
    parts = template.split("\0")
    assert len(parts) == len(numbers) + 1 or "\0" in template
    return "".join(a + b for a, b in itertools.zip_longest(parts, numbers, fillvalue=""))


def escaped(name: str) -> str:
    return name.encode("unicode_escape").decode()


def main() -> None:
    """Writes one table for real checkpoints, and one for the others."""
    folder = pathlib.Path(sys.argv[1])
    for kind in ("real", "zoo"):
        text = "\n".join(table(p, folder, m) for p, m in RULES.items() if p.startswith(kind))
        (OUT / f"{kind}.txt").write_text(text)


if __name__ == "__main__":
    main()
