"""A checkpoint as a mapping of names to stored tensors, read when they are asked for.

Knows a manifest, and no format. Never imports JAX.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Self

import numpy as np

from tf2flax._base.caller import check_switch, members, show_value
from tf2flax._base.errors import (
    AssignmentError,
    SharedNameError,
    TensorNotFoundError,
)
from tf2flax._base.manifest import Manifest
from tf2flax._base.names import nearest
from tf2flax._base.progress import ProgressFunction, check_progress, reporting
from tf2flax._base.role_patterns import AVERAGE
from tf2flax._base.synonyms import missing_attribute
from tf2flax._base.text import counted
from tf2flax._base.tuning import DEFAULT_TUNING, Tuning
from tf2flax._reading import whole

from .not_names import suggest_name
from .stored_tensor import StoredTensor
from .verifying import VerificationReport, verify


class Checkpoint(Mapping[str, StoredTensor]):
    """A checkpoint: names, sorted, to stored tensors.

    Picklable; a copy keeps the index that was read when the checkpoint was opened.
    Views of it are read as it is: with its `tuning`.

    Examples:
        >>> import numpy as np, tf2flax
        >>> checkpoint = tf2flax.open_checkpoint({"kernel": np.ones((3, 2)), "step": 7})
        >>> len(checkpoint)
        2
        >>> "step" in checkpoint
        True
        >>> int(checkpoint["step"].read())
        7
    """

    __slots__ = ("_manifest", "_tuning")

    def __init__(self, manifest: Manifest, tuning: Tuning = DEFAULT_TUNING) -> None:
        """Wraps a manifest; made by `open_checkpoint`, not by users.

        Raises:
            AssignmentError: It is something else, such as a path.
        """
        if not isinstance(manifest, Manifest):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AssignmentError(
                f"A Checkpoint is not made of {show_value(manifest)}. Write "
                "tf2flax.open_checkpoint(path)."
            )
        self._manifest = manifest
        self._tuning = tuning

    @property
    def prefix(self) -> str:
        """Absolute path or URL of the checkpoint, without suffix."""
        return self._manifest.prefix

    @property
    def manifest(self) -> Manifest:
        """Names and entries, for the layers above."""
        return self._manifest

    @property
    def tuning(self) -> Tuning:
        """How its tensors are read: as given to `open_checkpoint`, or the default."""
        return self._tuning

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._manifest.names)

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names, sorted."""
        return iter(self._manifest.names)

    def __contains__(self, name: object) -> bool:
        """Tells whether one tensor has this name; False if several share it."""
        if not isinstance(name, str) or name not in self._manifest:
            return False
        return not self._manifest.is_shared(name)

    def __getitem__(self, name: str) -> StoredTensor:
        """Looks up one tensor; reads nothing of it.

        Args:
            name: Its key.

        Returns:
            The stored tensor.

        Raises:
            TensorNotFoundError: No tensor has this name; the nearest are named. In a
                view: several share it, and those are named (an `UnsupportedError` too).
            DamagedError: Its entry is malformed.
        """
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self._tensor_not_found(name)
        try:
            return StoredTensor(self._manifest.entry(name), self._tuning)
        except SharedNameError:
            raise
        except TensorNotFoundError:
            raise self._tensor_not_found(name) from None

    def __enter__(self) -> Self:
        """Itself, for `with`; no file of it stays open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Does nothing: there is nothing to close."""

    def read(
        self,
        names: Iterable[str] | None = None,
        *,
        verify: bool = True,
        progress: bool | ProgressFunction = False,
    ) -> dict[str, np.ndarray]:
        """Reads many tensors whole, in parallel.

        Args:
            names: Names of the tensors; None reads all.
            verify: True compares CRC-32C checksums.
            progress: True draws a bar on stderr; a function is called with a
                `tf2flax.Progress`.

        Returns:
            Arrays by name, in the order of `names`.

        Raises:
            TensorNotFoundError: One of the names is not there; nothing is read.
            DamagedError: A data file is missing or short, a checksum differs, or the
                checkpoint has been replaced since it was opened.
            UnsupportedError: One of the dtypes holds no array.
            ReadError: The operating system refuses.

        Examples:
            >>> import numpy as np, tf2flax
            >>> checkpoint = tf2flax.open_checkpoint({"step": np.int64(7), "w": 1.5})
            >>> checkpoint.read(["step"])
            {'step': array(7)}
        """
        verify = check_switch("verify", verify)
        check_progress(progress)
        if isinstance(names, StoredTensor):  # which iterates over its rows
            raise self._tensor_not_found(names)
        if names is None:
            wanted = self._manifest.names
        else:
            wanted = (
                (names,) if isinstance(names, str) else tuple(members("read", names))
            )
            for name in wanted:
                if name not in self._manifest:
                    raise self._tensor_not_found(name)
        entries = {name: self._manifest.entry(name) for name in wanted}
        total = sum(entry.nbytes for entry in entries.values()) if progress else 0
        with reporting(
            progress, total, f"Reading {posixpath.basename(self.prefix)}"
        ) as advance:
            arrays = whole.read_many(
                tuple(entries.values()),
                verify=verify,
                advance=advance,
                tuning=self._tuning,
            )
        return dict(zip(entries, arrays, strict=True))

    def verify(self, progress: bool | ProgressFunction = False) -> VerificationReport:
        """Checks every byte: blocks, entries, coverage of slices, sizes, checksums.

        Memory is bounded by some MiB besides the largest tensor of strings; every byte
        is read once (of V1 checkpoints, twice).

        Args:
            progress: True draws a bar on stderr; a function is called with a
                `tf2flax.Progress`.

        Returns:
            A report with everything that is damaged: `ok`, `damaged`,
            `raise_for_damage()`, and a text when printed.

        Raises:
            DamagedError: The checkpoint has been replaced since it was opened: nothing
                is damaged, and nothing was verified.
            ReadError: The system or the store refuses.

        Examples:
            >>> import numpy as np, tf2flax
            >>> tf2flax.open_checkpoint({"step": np.int64(7)}).verify().ok
            True
        """
        check_progress(
            progress, "Checkpoint.verify checks every tensor, and takes no names."
        )
        return verify(self._manifest, progress=progress, tuning=self._tuning)

    def by_variable_name(self) -> Checkpoint:
        """The tensors of an object-based checkpoint under their variables' own names.

        So that one assignment map works for both generations: `dense/kernel` is what
        TF1 stores, and what TF2 stores under the path of an object. Slot variables are
        included. A name that several variables share is not listed, and looking it up
        says which tensors share it.

        A Keras 3 export (`model.export(dir)`) stores a variable twice, as
        `variables/<i>` and as `_all_variables/<j>`. Where exactly these two have a
        name, and their dtypes, shapes and checksums are equal, they are one variable:
        listed once, and `save_checkpoint(..., plan=plan)` writes both.

        Weights of Keras 3 go by the names of layers, those of nested models before
        them: `left/dense/kernel`. The variables' own names, and those of an optimizer's
        (`adam/dense_kernel_momentum`), follow from `config.json` in a `.keras` file or
        its folder. In `.weights.h5` the class that names the layer's group tells them,
        where it is one of Keras's and has so many variables in one way only; else they
        are numbers: `dense/0`. `.weights.h5` of Keras before 3.6 holds no names of
        layers: a warning says so, and stored names stay.

        Returns:
            A view; nothing is copied.

        Raises:
            UnsupportedError: The checkpoint is neither: names are the variables' own
                already.
            DamagedError: Its object graph or `config.json` is malformed.
            ReadError: The system or the store refuses.

        Examples:
            >>> import tf2flax
            >>> checkpoint = tf2flax.open_checkpoint("tests/data/tf1_keras/object.ckpt")
            >>> list(checkpoint.by_variable_name())[:2]
            ['bi/backward_lstm/bias', 'bi/backward_lstm/kernel']

        Source: `object_graph_key_mapping`, tensorflow/python/training/saver.py.
        """
        return Checkpoint(self._manifest.by_variable_name(), self._tuning)

    def by_object_path(self) -> Checkpoint:
        """The tensors of an object-based checkpoint under plain paths of attributes.

        A variable is listed under the path it is stored under, without suffix and
        escapes; any other path that leads to it can be looked up as well. What a Keras
        3 export stores twice (see `by_variable_name`) is listed once, as
        `variables/<i>`.

        Returns:
            A view; nothing is copied.

        Raises:
            UnsupportedError: The checkpoint is not object-based.
            DamagedError: Its object graph is malformed.

        Examples:
            >>> import tf2flax
            >>> checkpoint = tf2flax.open_checkpoint("tests/data/tf1_keras/object.ckpt")
            >>> list(checkpoint.by_object_path())[:2]
            ['layer_with_weights-0/bias', 'layer_with_weights-0/kernel']
        """
        return Checkpoint(self._manifest.by_object_path(), self._tuning)

    def by_moving_average(self, name: str = AVERAGE) -> Checkpoint:
        """The variables, each from its moving average where it has one.

        So that the assignment map of the weights fills their averages. An average is
        the tensor `<variable>/<name>`, in any scope that an optimizer repeats the
        variable's name in: `train/dense/kernel/ExponentialMovingAverage`. Averages are
        no names of their own here; all other tensors are themselves.

        Args:
            name: Name of the averages, as given to `tf.train.ExponentialMovingAverage`;
                `train/…/<name>` takes those in a scope alone.

        Returns:
            A view; nothing is read or copied. Its `averaged` are the variables that
            stand for averages. `save_checkpoint(..., plan=plan)` writes averages, not
            the variables.

        Raises:
            NotFoundError: No variable has such an average.
            AssignmentError: A variable has several of them, or `name` is not a name.

        Examples:
            >>> import numpy as np, tf2flax
            >>> tensors = {"w": np.zeros(2), "w/ExponentialMovingAverage": np.ones(2)}
            >>> averages = tf2flax.open_checkpoint(tensors).by_moving_average()
            >>> averages["w"].read(), averages.averaged
            (array([1., 1.]), ('w',))

        Source: tensorflow/python/training/moving_averages.py.
        """
        from .training_views import AveragedManifest

        return Checkpoint(AveragedManifest(self._manifest, name), self._tuning)

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names that stand for moving averages, sorted: those of `by_moving_average`.

        Empty for a checkpoint that is not such a view.
        """
        return self._manifest.averaged

    @property
    def slots(self) -> Mapping[str, tuple[str, ...]]:
        """Slots of optimizers -> names of the variables that have them, sorted.

        A slot is called as its tensors are, below the variable (`Adam`, `Adam_1`,
        `adam_m`, `slot_vr`), or as TF2 calls it (`m`). Where several optimizers share a
        name, the scope of each stands before it: `training/…/Adam`. What the spellings
        mean is in docs/views.md. Slots are left out of which nobody can tell the
        variable (names that the writer has cut off, or numbers); printed, it says so.

        Examples:
            >>> import numpy as np, tf2flax
            >>> tensors = {name: np.zeros(2) for name in ("w", "w/adam_m", "w/adam_v")}
            >>> slots = tf2flax.open_checkpoint(tensors).slots
            >>> list(slots), slots["adam_m"]
            (['adam_m', 'adam_v'], ('w',))
        """
        from .slots import SlotNames, find_slots

        return SlotNames(find_slots(self._manifest))

    def by_slot(self, name: str) -> Checkpoint:
        """The slots of one name, each under the name of its variable.

        So that the assignment map of the weights fills the state of an optimizer.

        Args:
            name: One of `slots`.

        Returns:
            A view, of the variables that have the slot; nothing is read or copied.
            `save_checkpoint(..., plan=plan)` writes the slots.

        Raises:
            NotFoundError: There is no such slot: the nearest, and all, are named. Or no
                name tells what the slots belong to: these are named.
            AssignmentError: `name` is not a name.

        Examples:
            >>> import numpy as np, tf2flax
            >>> tensors = {"w": np.zeros(2), "w/adam_m": np.ones(2)}
            >>> tf2flax.open_checkpoint(tensors).by_slot("adam_m")["w"].read()
            array([1., 1.])
        """
        from .training_views import SlotManifest

        return Checkpoint(SlotManifest(self._manifest, name), self._tuning)

    if not TYPE_CHECKING:  # type checkers are to find such names themselves

        def __getattr__(self, name: str) -> object:
            """Says what to write instead of a name that does not exist."""
            owner = type(self)
            raise missing_attribute(
                f"{owner.__name__!r} object", "Checkpoint", name, dir(owner)
            )

    def __repr__(self) -> str:
        """Names the checkpoint with its number of tensors."""
        return f"Checkpoint({self.prefix!r}, {counted(len(self), 'tensor')})"

    def _repr_html_(self) -> str:
        """The tensors as a table for notebooks."""
        from .notebook import checkpoint_html

        return checkpoint_html(self)

    def __reduce__(self) -> tuple[type[Checkpoint], tuple[Manifest, Tuning]]:
        """Pickles the manifest, not the path alone."""
        return Checkpoint, (self._manifest, self._tuning)

    def _tensor_not_found(self, name: object) -> TensorNotFoundError:
        place = self._manifest.index_path
        if not isinstance(name, str):
            return TensorNotFoundError(show_value(name), place, hint=suggest_name(name))
        names, hint = self._manifest.names, self._manifest.hint(name)
        return TensorNotFoundError(name, place, nearest(name, names), hint)
