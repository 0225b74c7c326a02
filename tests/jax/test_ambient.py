"""What callers set around a restore: meshes, guards of transfers, debugging switches.

Several processes under `jax.set_mesh`: test_multihost.py.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)
from ml_dtypes import bfloat16

import tf2flax
from tf2flax._jax import transfer

P = PartitionSpec
SDS = jax.ShapeDtypeStruct
ARRAYS: dict[str, np.ndarray] = {
    "kernel": np.arange(16 * 24, dtype=np.float32).reshape(16, 24),
    "nans": np.array([np.nan, -np.inf, 1, np.nan], bfloat16),
    "step": np.array(7, np.int32),
    "empty": np.zeros((0, 4), np.float32),
    "mask": np.array([True, False]),
    # Cut into shards before it goes to devices.
    "big": np.arange(3 << 17, dtype=np.float32).reshape(512, 768),
}
TARGET: dict[str, Any] = {name: SDS(a.shape, a.dtype) for name, a in ARRAYS.items()}
DEVICES = np.array(jax.devices())


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ambient") / "m"
    strings = np.array([b"a", b"bc"], object)
    return tf2flax.save_checkpoint(path, {**ARRAYS, "words": strings})


def mesh_of(devices: np.ndarray, kind: AxisType = AxisType.Auto) -> Mesh:
    return Mesh(devices.reshape(-1, 2), ("d", "m"), axis_types=(kind,) * 2)


def initial(key: jax.Array, scale: Any = 1) -> dict[str, jax.Array]:
    """Everything that the checkpoint has, and a leaf that it lacks."""
    made = {name: jnp.zeros(a.shape, a.dtype) for name, a in ARRAYS.items()}
    drawn = jax.random.normal(key, (8, 4), jnp.float32) * jnp.asarray(
        scale, jnp.float32
    )
    return {**made, "kept": drawn}


def init_from_checkpoint(prefix: str, **options: Any) -> dict[str, jax.Array]:
    return tf2flax.init_from_checkpoint(prefix, {"/": "/"}, TARGET, **options)


def restore(prefix: str, **options: Any) -> dict[str, jax.Array]:
    return tf2flax.plan(prefix, {"/": "/"}, TARGET, **options).restore()


KEY = jax.random.key(0)
SCALE = np.array(2.0, np.float32)


def warm_start(prefix: str, **options: Any) -> dict[str, jax.Array]:
    warm = tf2flax.warm_start(initial, prefix, {"/": "/"}, on_missing="keep", **options)
    return warm(KEY, SCALE)


CALLS = [init_from_checkpoint, restore, warm_start]
KEPT = np.asarray(jax.jit(initial)(KEY, SCALE)["kept"])


def expect(got: dict[str, jax.Array], sharding: Sharding | None) -> None:
    for name, array in got.items():
        value = KEPT if name == "kept" else ARRAYS[name]
        if sharding is not None and name in ("kernel", "kept", "big"):
            assert array.sharding == sharding, name
        assert np.asarray(array).tobytes() == value.tobytes(), name


def rows_of(mesh: Mesh) -> tuple[Sharding, Callable[[Any], Sharding]]:
    """Rows of matrices along the first axis; everything else on every device."""
    rows, everywhere = NamedSharding(mesh, P("d")), NamedSharding(mesh, P())
    names = ("kernel", "kept", "big")
    return rows, lambda leaf: rows if leaf.name in names else everywhere


@pytest.mark.parametrize("call", CALLS)
def test_leaves_elsewhere_than_on_the_mesh_in_force(call: Any, prefix: str) -> None:
    for ambient, leaves in ((AxisType.Auto, AxisType.Auto), (AxisType.Explicit,) * 2):
        sharding, option = rows_of(mesh_of(DEVICES[2:6], leaves))
        with jax.set_mesh(mesh_of(DEVICES[:4], ambient)):
            expect(call(prefix, sharding=option), sharding)


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("leaves", ["all", "some", "one", "free"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_leaves_anywhere_under_any_mesh(
    call: Any, leaves: str, kind: AxisType, prefix: str
) -> None:
    option: Any
    sharding: Any
    if leaves == "one":
        sharding = option = SingleDeviceSharding(DEVICES[5])
    elif leaves == "free":
        sharding = option = None
    else:
        devices = DEVICES if leaves == "all" else DEVICES[2:6]
        sharding, option = rows_of(mesh_of(devices, kind))
    for ambient in (DEVICES, DEVICES[:4], DEVICES[::-1]):
        with jax.set_mesh(mesh_of(ambient, kind)):
            expect(call(prefix, sharding=option), sharding)
    with jax.sharding.use_abstract_mesh(mesh_of(DEVICES, kind).abstract_mesh):
        if call is not warm_start:  # JAX computes nothing there
            expect(call(prefix, sharding=option), sharding)


@pytest.mark.slow
def test_explicit_leaves_under_auto_axes_and_the_other_way_round(prefix: str) -> None:
    for ambient, own in (("Auto", "Explicit"), ("Explicit", "Auto")):
        for devices in (DEVICES, DEVICES[:4]):
            sharding, option = rows_of(mesh_of(devices, AxisType[own]))
            with jax.set_mesh(mesh_of(DEVICES, AxisType[ambient])):
                for call in CALLS:
                    expect(call(prefix, sharding=option), sharding)


def test_modules_under_a_mesh_that_other_devices_have(prefix: str) -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.kernel = nnx.Param(jnp.zeros((16, 24)))
            self.kept = nnx.Param(jax.random.normal(rngs.params(), (8, 4)))

    some = NamedSharding(mesh_of(DEVICES[:4]), P("d"))
    rngs, reference = nnx.Rngs(0), nnx.Rngs(0)
    wanted = nnx.jit(Model)(reference)
    with jax.set_mesh(mesh_of(DEVICES)):
        warm = tf2flax.warm_start(Model, prefix, {"kernel": "kernel"}, sharding=some)
        model = warm(rngs)
    assert model.kernel[...].sharding == model.kept[...].sharding == some
    assert np.array_equal(model.kernel[...], ARRAYS["kernel"])
    assert np.array_equal(model.kept[...], wanted.kept[...])
    assert int(rngs.params.count[...]) == int(reference.params.count[...])


@contextlib.contextmanager
def guarded(guard: Any) -> Iterator[None]:
    """A guard of transfers, which must see implicit ones."""
    host = np.ones(3, np.float32)
    with guard("disallow"):
        with pytest.raises(Exception, match="Disallowed host-to-device"):
            jax.jit(jnp.negative)(host)
        yield


@pytest.mark.parametrize("call", CALLS)
def test_no_transfer_is_implicit(call: Any, prefix: str) -> None:
    for guard, (sharding, option) in (
        (jax.transfer_guard, (None, None)),
        (jax.transfer_guard, rows_of(mesh_of(DEVICES))),
        (jax.transfer_guard_host_to_device, (SingleDeviceSharding(DEVICES[3]),) * 2),
    ):
        with guarded(guard):
            got = call(prefix, sharding=option)
        expect(got, sharding)


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_no_transfer_is_implicit_under_any_mesh(call: Any, prefix: str) -> None:
    for kind in (AxisType.Auto, AxisType.Explicit):
        for devices in (DEVICES, DEVICES[:4]):
            sharding, option = rows_of(mesh_of(devices, kind))
            with guarded(jax.transfer_guard):
                got = call(prefix, sharding=option)
            expect(got, sharding)
            with jax.set_mesh(mesh_of(DEVICES, kind)), guarded(jax.transfer_guard):
                got = call(prefix, sharding=option)
            expect(got, sharding)


def test_no_transfer_of_a_portion_is_implicit(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "is_on_host", lambda _: False)
    begun = 0

    class Counted(transfer.PortionedLeaf):
        def __init__(self, *arguments: Any) -> None:
            nonlocal begun
            begun += 1
            super().__init__(*arguments)

    monkeypatch.setattr(transfer, "PortionedLeaf", Counted)
    for sharding, option in ((None, None), rows_of(mesh_of(DEVICES[:4]))):
        with guarded(jax.transfer_guard):
            got = init_from_checkpoint(
                prefix, sharding=option, max_in_flight_bytes=1 << 20
            )
        expect(got, sharding)
    assert begun == 2


def test_guards_of_explicit_transfers_stay_in_force(prefix: str) -> None:
    _, option = rows_of(mesh_of(DEVICES))
    for sharding in (None, option):
        with (
            jax.transfer_guard("disallow_explicit"),
            pytest.raises(Exception, match="Disallowed host-to-device transfer"),
        ):
            init_from_checkpoint(prefix, sharding=sharding)


SWITCHES: dict[str, Callable[[], Any]] = {
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "disable_jit": jax.disable_jit,
    "tracer leaks": jax.checking_leaks,
    "key reuse": lambda: jax.debug_key_reuse(True),
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "default device": lambda: jax.default_device(jax.devices()[3]),
    "x64": lambda: jax.enable_x64(True),
}


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("debug_nans", "disable_jit", "key reuse")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in SWITCHES
    ],
)
def test_switches_change_nothing(name: str, prefix: str) -> None:
    key = jax.random.key(0)
    rows, option = rows_of(mesh_of(DEVICES))
    one = SingleDeviceSharding(DEVICES[2])

    def mixed(leaf: Any) -> Any:
        return one if leaf.name == "kept" else option(leaf)

    with SWITCHES[name]():
        for call in (init_from_checkpoint, restore):
            expect(call(prefix, sharding=option), rows)
        free = init_from_checkpoint(prefix)
        warm = tf2flax.warm_start(
            lambda key: {**initial(key, SCALE), "other": jnp.ones((4,), jnp.float32)},
            prefix, {"/": "/"}, on_missing="keep", sharding=mixed,
        )  # fmt: skip
        got = warm(key)
    expect(free, None)
    if name == "default device":
        assert free["kernel"].sharding.device_set == {jax.devices()[3]}
    assert got["other"].sharding == NamedSharding(mesh_of(DEVICES), P())
    assert got["kept"].sharding == one
    assert np.array_equal(got["kept"], KEPT)


def test_portions_of_nans_under_debug_nans(
    prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(transfer, "is_on_host", lambda _: False)
    nans = np.full((64, 32), np.nan, np.float32)
    path = tf2flax.save_checkpoint(tmp_path / "m", {"x": nans})
    for switch in ("debug_nans", "disable_jit"):
        with SWITCHES[switch]():
            got = tf2flax.init_from_checkpoint(
                path, {"x": "x"}, {"x": SDS(nans.shape, "float32")},
                max_in_flight_bytes=4096, sharding=SingleDeviceSharding(DEVICES[1]),
            )["x"]  # fmt: skip
        assert np.asarray(got).tobytes() == nans.tobytes()


@pytest.mark.parametrize("name", ["mesh", "debug_nans", "disable_jit"])
def test_mutable_arrays_whatever_is_in_force(name: str, prefix: str) -> None:
    def build() -> nnx.Module:
        with nnx.var_defaults(ref=True):
            return nnx.Dict(nans=nnx.Param(jnp.ones((4,), bfloat16)))

    under = {"mesh": lambda: jax.set_mesh(mesh_of(DEVICES)), **SWITCHES}[name]
    entries = {"nans": "nans"}
    for sharding in (None, SingleDeviceSharding(DEVICES[3])):
        model: Any = build()
        with under():
            for _ in range(2):  # the second finds NaNs
                tf2flax.init_from_checkpoint(prefix, entries, model, sharding=sharding)
            warm: Any = tf2flax.warm_start(build, prefix, entries, sharding=sharding)()
        for got in (model, warm):
            assert isinstance(got.nans.get_raw_value(), jax.Ref)
            value = np.asarray(got.nans.get_raw_value()[...])
            assert value.tobytes() == ARRAYS["nans"].tobytes()
