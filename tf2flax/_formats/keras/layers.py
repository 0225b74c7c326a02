"""Keras's own layers and optimizers: how their variables are called, in stored order.

Keras 3 stores the variables of a layer under numbers: those that it trains, then the
others, each in the order in which the layer makes them. Knows no file.

Source: keras-team/keras, keras/src/layers and keras/src/optimizers, 3.3 to 3.15.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

Config = Mapping[str, object]
# Names of slot variables; slots in one group alternate, variable by variable.
SlotGroup = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a layer.

    Attributes:
        name: Its name.
        is_there: Tells from the layer's config whether it has the variable; None for
            one that it always has.
        is_trained: True if optimizers have slots for it.
        min_rank: The least rank that it may have: a weak check against other classes
            of the same name.
        max_rank: The greatest; None for any.
        is_float: True if its dtype is one of floating point: quantised layers have
            other variables.
        is_rare: True if only a config makes the layer have it; without one it is
            left out.
    """

    name: str
    is_there: Callable[[Config], bool] | None = None
    is_trained: bool = True
    min_rank: int = 1
    is_float: bool = True
    is_rare: bool = False
    max_rank: int | None = None

    def may_be(self, rank: int, *, is_float: bool) -> bool:
        """Tells whether a stored variable of such a rank and dtype may be this one."""
        is_small = self.max_rank is None or rank <= self.max_rank
        return self.min_rank <= rank and is_small and is_float == self.is_float


@dataclasses.dataclass(frozen=True, slots=True)
class LayerClass:
    """The variables and layers that all layers of a class have.

    Attributes:
        variables: The layer's own, in stored order.
        children: Attribute -> class and name of the layer in it, in the order in which
            the layer tracks them. A name of "" is not known from the class.
    """

    variables: tuple[Variable, ...] = ()
    children: Mapping[str, tuple[str, str]] = dataclasses.field(
        default_factory=dict[str, tuple[str, str]]
    )

    def names(
        self,
        config: Config | None,
        variables: Sequence[tuple[int, bool]],
    ) -> tuple[Variable, ...] | None:
        """The variables of one layer.

        Args:
            config: The layer's; None where it is not known.
            variables: Of each stored variable, its rank, and whether its dtype is one
                of floating point.

        Returns:
            As many variables; None where the number fits none, or several choices.
        """
        if config is not None:
            choices = [
                tuple(
                    variable
                    for variable in self.variables
                    if variable.is_there is None or variable.is_there(config)
                )
            ]
        else:
            choices = list(self._choices())
        fitting = [
            choice
            for choice in choices
            if len(choice) == len(variables)
            and all(
                variable.may_be(rank, is_float=is_float)
                for variable, (rank, is_float) in zip(choice, variables, strict=True)
            )
        ]
        return fitting[0] if len(fitting) == 1 else None

    def _choices(self) -> list[tuple[Variable, ...]]:
        """Every set of variables that some layer of the class has."""
        options = [
            ((variable,),) if variable.is_there is None else ((variable,), ())
            for variable in self.variables
            if not variable.is_rare
        ]
        return [
            tuple(itertools.chain.from_iterable(choice))
            for choice in itertools.product(*options)
        ]


def snake_case(class_name: str) -> str:
    """The name that Keras gives to a class in paths: `Conv2D` -> `conv2d`.

    Source: `to_snake_case`, keras/src/utils/naming.py.
    """
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _has(key: str, *, default: bool = True) -> Callable[[Config], bool]:
    return lambda config: bool(config.get(key, default))


def _is_rms(config: Config) -> bool:
    return bool(config.get("rms_scaling", False))


def _is_concat(config: Config) -> bool:
    return config.get("score_mode", "dot") == "concat"


def _frozen(name: str, *, min_rank: int = 1, is_float: bool = True) -> Variable:
    return Variable(name, None, False, min_rank, is_float)


def _weights(*names: str) -> tuple[Variable, ...]:
    return tuple(Variable(name, min_rank=2) for name in names)


_BIAS: Final = Variable("bias", _has("use_bias"))
_KERNEL: Final = LayerClass((*_weights("kernel"), _BIAS))
_SEPARABLE: Final = LayerClass(
    (*_weights("depthwise_kernel", "pointwise_kernel"), _BIAS)
)
_CELL: Final = LayerClass((*_weights("kernel", "recurrent_kernel"), _BIAS))
_SCALE: Final = (Variable("gamma", _has("scale")), Variable("beta", _has("center")))
# Since Keras 3.13.
_RENORM: Final = tuple(
    Variable(name, _has("renorm", default=False), is_trained=False, is_rare=True)
    for name in ("moving_stddev", "renorm_mean", "renorm_stddev")
)


# An EinsumDense of an attention layer, whose kernel has heads: a user's own layer may
# have another layer in an attribute of that name.
_PROJECTION: Final = "EinsumDense of attention"


def _attention(*children: tuple[str, str]) -> LayerClass:
    # Public properties are visited before private attributes, and stored by them.
    return LayerClass(
        (),
        {
            f"{start}{attribute}": (_PROJECTION, name)
            for attribute, name in children
            for start in ("", "_")
        },
    )


def _recurrent(cell: str) -> LayerClass:
    return LayerClass((), {"cell": (cell, snake_case(cell))})


_QKV: Final = (
    ("query_dense", "query"),
    ("key_dense", "key"),
    ("value_dense", "value"),
)
CLASSES: Final[dict[str, LayerClass]] = {
    "Dense": _KERNEL,
    "EinsumDense": LayerClass(
        (
            # A kernel of rank 1 is possible: "a,a->a".
            Variable("kernel"),
            Variable("bias", lambda config: config.get("bias_axes") is not None),
        )
    ),
    _PROJECTION: LayerClass((Variable("kernel", min_rank=3), _BIAS)),
    "Embedding": LayerClass(_weights("embeddings")),
    "ReversibleEmbedding": LayerClass(
        (
            *_weights("embeddings"),
            Variable(
                "reverse_embeddings",
                lambda config: not config.get("tie_weights", True),
                min_rank=2,
            ),
        )
    ),
    **dict.fromkeys(
        (
            *(f"Conv{rank}D" for rank in (1, 2, 3)),
            *(f"Conv{rank}DTranspose" for rank in (1, 2, 3)),
            *(f"DepthwiseConv{rank}D" for rank in (1, 2)),
        ),
        _KERNEL,
    ),
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "BatchNormalization": LayerClass(
        (*_SCALE, _frozen("moving_mean"), _frozen("moving_variance"), *_RENORM)
    ),
    "LayerNormalization": LayerClass(
        (
            Variable(
                "gamma", lambda config: bool(config.get("scale", 1)) or _is_rms(config)
            ),
            Variable(
                "beta",
                lambda config: bool(config.get("center", 1)) and not _is_rms(config),
            ),
        )
    ),
    "GroupNormalization": LayerClass(_SCALE),
    "RMSNormalization": LayerClass((Variable("scale"),)),
    # Its first variable is the kernel of the layer in it, which is stored and named
    # there: here it keeps its number.
    "SpectralNormalization": LayerClass(
        (_frozen("0", min_rank=2), _frozen("vector_u")), {"layer": ("", "")}
    ),
    "Normalization": LayerClass(
        (
            _frozen("mean", min_rank=0),
            _frozen("variance", min_rank=0),
            _frozen("count", min_rank=0, is_float=False),
        )
    ),
    "PReLU": LayerClass((Variable("alpha"),)),
    "Attention": LayerClass(
        (
            # Users' own classes of this name are common, and hold matrices.
            Variable("scale", _has("use_scale", default=False), min_rank=0, max_rank=0),
            Variable("concat_score_weight", _is_concat, min_rank=0, max_rank=0),
        )
    ),
    "AdditiveAttention": LayerClass((Variable("scale", _has("use_scale")),)),
    **{f"{kind}Cell": _CELL for kind in ("LSTM", "GRU", "SimpleRNN", "ConvLSTM")},
    **{kind: _recurrent(f"{kind}Cell") for kind in ("LSTM", "GRU", "SimpleRNN")},
    **{f"ConvLSTM{rank}D": _recurrent("ConvLSTMCell") for rank in (1, 2, 3)},
    "RNN": LayerClass((), {"cell": ("", "")}),
    "StackedRNNCells": LayerClass(),
    "Bidirectional": LayerClass(
        (), {"forward_layer": ("", ""), "backward_layer": ("", "")}
    ),
    "TimeDistributed": LayerClass((), {"layer": ("", "")}),
    "MultiHeadAttention": _attention(*_QKV, ("output_dense", "attention_output")),
    "GroupQueryAttention": _attention(*_QKV, ("output_dense", "attention_output")),
    "GroupedQueryAttention": _attention(*_QKV, ("output_dense", "attention_output")),
}
# By the names that a path has for them.
BY_SNAKE_CASE: Final = {snake_case(name): name for name in CLASSES}
# Some layers give the layers in them names that are always the same. So attribute and
# name tell the class of such a one, whatever the class of the layer around it is, which
# may be the user's, or unknown as in a Bidirectional.
BY_ATTRIBUTE: Final[dict[tuple[str, str], str]] = {
    (attribute, name): child_class
    for layer in CLASSES.values()
    for attribute, (child_class, name) in layer.children.items()
    if child_class
}


def slot_groups(class_name: str, config: Config) -> tuple[SlotGroup, ...] | None:
    """The slots of an optimizer, in stored order.

    Args:
        class_name: Its class.
        config: Its config.

    Returns:
        The names of slots; None where the order is not known.
    """
    first: list[SlotGroup] = []
    if config.get("use_ema"):
        first.append(("average",))
    if config.get("gradient_accumulation_steps"):
        first.append(("gradient_accumulator",))
    groups = _SLOTS.get(class_name)
    return None if groups is None else (*first, *groups(config))


def _always(*groups: SlotGroup) -> Callable[[Config], list[SlotGroup]]:
    return lambda _: list(groups)


def _adam(config: Config) -> list[SlotGroup]:
    hats: list[SlotGroup] = [("velocity_hat",)] if config.get("amsgrad") else []
    return [("momentum", "velocity"), *hats]


def _sgd(config: Config) -> list[SlotGroup]:
    return [("momentum",)] if config.get("momentum") else []


def _rmsprop(config: Config) -> list[SlotGroup]:
    centered: list[SlotGroup] = (
        [("average_gradient",)] if config.get("centered") else []
    )
    return [("velocity",), *_sgd(config), *centered]


_SLOTS: Final[dict[str, Callable[[Config], list[SlotGroup]]]] = {
    "Adam": _adam,
    "AdamW": _adam,
    "Nadam": _always(("momentum", "velocity")),
    "Lamb": _always(("momentum", "velocity")),
    "SGD": _sgd,
    "RMSprop": _rmsprop,
    "Adagrad": _always(("accumulator",)),
    "Adadelta": _always(("accumulated_grad", "accumulated_delta_var")),
    "Adamax": _always(("momentum", "norm")),
    "Ftrl": _always(("accumulator", "linear")),
    "Lion": _always(("momentum",)),
}
