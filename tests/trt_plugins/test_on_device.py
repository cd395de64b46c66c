"""Launching on a GPU, as far as it goes without one."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_plugins.cubins import ARCHITECTURES
from trt_plugins.on_device import Arguments, DeviceError, architecture_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("capability", "architecture"),
    [((7, 5), 75), ((8, 0), 80), ((8, 7), 86), ((8, 9), 89), ((9, 0), 90), ((10, 3), 100), ((12, 1), 120)],
)
def test_a_gpu_gets_the_newest_code_that_it_runs(capability: tuple[int, int], architecture: int) -> None:
    assert architecture_of(*capability) == architecture


@pytest.mark.parametrize("capability", [(7, 0), (6, 1), (11, 0), (13, 0)])
def test_a_gpu_that_nothing_is_compiled_for_is_refused(capability: tuple[int, int]) -> None:
    with pytest.raises(DeviceError, match=rf"7\.5, 8\.0.*this one has {capability[0]}\.{capability[1]}"):
        architecture_of(*capability)


@given(st.integers(1, 20), st.integers(0, 9), st.sets(st.sampled_from(ARCHITECTURES), min_size=1))
def test_code_is_of_the_gpus_major_version_and_not_beyond_its_minor(major: int, minor: int, known: set[int]) -> None:
    runs = {number for number in known if number // 10 == major and number % 10 <= minor}
    if runs:
        assert architecture_of(major, minor, sorted(known)) == max(runs)
    else:
        with pytest.raises(DeviceError):
            architecture_of(major, minor, sorted(known))


@given(
    pointers=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=4),
    numbers=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9),
)
def test_arguments_are_addresses_of_inputs_numbers_and_output(pointers: list[int], numbers: list[int]) -> None:
    arguments = Arguments(len(pointers) - 1, numbers)
    arguments.fill([0] * len(pointers))
    arguments.fill(pointers)
    addresses = (ctypes.c_uint64 * (len(pointers) + len(numbers))).from_address(arguments.address)
    kinds = [ctypes.c_uint64] * (len(pointers) - 1) + [ctypes.c_int32] * len(numbers) + [ctypes.c_uint64]
    read = [kind.from_address(address).value for kind, address in zip(kinds, addresses, strict=True)]
    assert read == [*pointers[:-1], *numbers, pointers[-1]]


def test_arguments_of_another_number_are_refused() -> None:
    with pytest.raises(DeviceError, match="got 2 addresses; it needs 3"):
        Arguments(2, [1]).fill([0, 0])


def test_a_number_beyond_32_bits_is_refused() -> None:
    with pytest.raises(DeviceError, match="smaller batches"):
        Arguments(1, [2**31])


def test_importing_needs_neither_a_gpu_nor_the_bindings_nor_torch() -> None:
    code = (
        "import sys; sys.modules['cuda'] = None\n"
        "import trt_plugins.on_device as d\n"
        "from trt_plugins.operators import ALL\n"
        "assert 'torch' not in sys.modules\n"
        "try: d.launch(ALL[0], 'f32', [(1, 2, 8), (1, 1, 3)], {}, [0, 0, 0], 0)\n"
        "except d.DeviceError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install 'skipvit[cuda]'" in done.stdout
