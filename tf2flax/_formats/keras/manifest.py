"""What manifests of Keras weights share: the names of variables, and hints to them."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping

from tf2flax._base.caller import warn_caller
from tf2flax._base.errors import CheckpointError, UnsupportedError
from tf2flax._base.manifest import Manifest
from tf2flax._base.roles import NamedRoles, Role, Roles
from tf2flax._formats.renamed import RenamedManifest

from .config import OPTIMIZER, ConfigFile
from .hdf5_names import layer_hint
from .names import VariableNames, Weights, variable_names


class KerasManifest(Manifest):
    """Weights of Keras, in one file or in several, under their stored names."""

    # The config of the model, which is read when names of variables are asked for.
    _config: ConfigFile | None

    @property
    @abc.abstractmethod
    def weights(self) -> Weights:
        """Shapes, dtypes and layers, from which names of variables follow."""

    def hint(self, name: str) -> str:
        """Says where the layer in a name is stored, if Keras 3 names its layers."""
        weights = self.weights
        where = layer_hint(name, weights.layers)
        if where and weights.is_keras_3:
            where += " `checkpoint.by_variable_name()` goes by the names of layers."
        return where

    def roles(self, *, may_read: bool = True) -> Roles:
        """What its tensors are to a training; see `Manifest`."""
        return _KerasRoles(self) if may_read else super().roles()

    def variable_names(self) -> VariableNames:
        """The names of variables; reads `config.json` where there is one.

        Raises:
            DamagedError: `config.json` is malformed.
            UnsupportedError: These are not Keras 3's weights.
            ReadError: The system refuses.
        """
        return variable_names(self.weights, self._config, self.index_path)

    def by_variable_name(self) -> Manifest:
        """The view under the names of layers and variables; see `variable_names`.

        Warns:
            UserWarning: The weights have no names of layers.
        """
        names = self.variable_names()
        if not names.has_layers:
            warn_caller(
                f"`{self.index_path}` holds no names of layers: Keras before 3.6 "
                "stored none in `.weights.h5`, and one of several files has not all. "
                "These are the stored names: use them, open the index of all files "
                "(`.weights.json`), or save the model again with a newer Keras."
            )
        return RenamedManifest(self, names.keys)

    def by_object_path(self) -> Manifest:
        """Refused: Keras stores weights under the paths of objects already."""
        raise UnsupportedError(
            f"`{self.index_path}` holds no object graph: Keras weights are stored "
            "under the paths of objects. Use the checkpoint as it is, or "
            "by_variable_name()."
        )


class _KerasRoles(NamedRoles):
    """Roles of Keras weights: what slots belong to, the config of the model tells."""

    def __init__(self, manifest: KerasManifest) -> None:
        super().__init__(frozenset(manifest.names), manifest.shape_of)
        self._manifest = manifest

    def of(self, name: str) -> Role:
        """The role of a tensor; see `Roles`."""
        role = super().of(name)
        if role.kind == "slot" and role.variable is None and name in self._slots:
            variable, slot = self._slots[name]
            return Role("slot", variable, slot, OPTIMIZER)
        return role

    @functools.cached_property
    def _slots(self) -> Mapping[str, tuple[str, str]]:
        """Stored names of slots -> variable and slot, as far as the config tells."""
        try:
            return self._manifest.variable_names().slots
        except CheckpointError:  # a damaged config, or weights of Keras 2
            return {}
