"""What joins GPUs, by data sheets, and the time of a collective."""

from __future__ import annotations

import pytest

from tunesmith.errors import PlanError
from tunesmith.machine.gpus import find_gpu, gpus
from tunesmith.machine.interconnect import LINKS, REACHED, START_SECONDS, Network, asked_links, find_link

H100 = find_gpu("h100-sxm")
GB = 1e9


def test_bandwidths_are_of_one_direction() -> None:
    gigabytes = {link.key: round(link.bandwidth / GB, 2) for link in LINKS}
    assert (gigabytes["nvlink-3"], gigabytes["nvlink-4"], gigabytes["nvlink-5"]) == (300, 450, 900)
    assert (gigabytes["pcie-3"], gigabytes["pcie-4"], gigabytes["pcie-5"]) == (15.75, 31.51, 63.02)
    assert (gigabytes["infiniband-ndr"], gigabytes["ethernet-100"]) == (50, 12.5)


def test_every_gpu_has_a_usual_interconnect() -> None:
    usual = {gpu.key: Network.of_gpus(gpu, 16, 2) for gpu in gpus()}
    assert all(network.inside.where == "inside" and network.between.where == "between" for network in usual.values())
    named = {key: usual[key].inside.key for key in ("t4", "l4", "a100-80gb", "h100-pcie", "h100-sxm", "b200", "mi300x")}
    assert named == {
        "t4": "pcie-3",
        "l4": "pcie-4",
        "a100-80gb": "nvlink-3",
        "h100-pcie": "pcie-5",
        "h100-sxm": "nvlink-4",
        "b200": "nvlink-5",
        "mi300x": "infinity-fabric",
    }


def test_a_collective_takes_its_bytes_and_its_hops() -> None:
    one, two, eight = (Network.of_gpus(H100, number, 1) for number in (1, 2, 8))
    assert (one.gather_seconds(GB), one.reduce_seconds(GB)) == (0, 0)
    rate = 450 * GB * REACHED
    assert eight.gather_seconds(GB) == pytest.approx(START_SECONDS + 7 * 3.4e-6 + 7 / 8 * GB / rate)
    assert two.reduce_seconds(GB) == pytest.approx(START_SECONDS + 2 * 3.4e-6 + GB / rate)
    assert eight.reduce_seconds(GB) == pytest.approx(START_SECONDS + 14 * 3.4e-6 + 2 * 7 / 8 * GB / rate)


def test_adapters_of_a_machine_work_together_and_one_adapter_is_shared() -> None:
    infiniband = Network.of_gpus(H100, 16, 2, asked_links(["infiniband-ndr"]))
    ethernet = Network.of_gpus(H100, 16, 2, asked_links(["ethernet-100"]))
    assert infiniband.bandwidth == pytest.approx(8 * 50 * GB * REACHED)
    assert ethernet.bandwidth == pytest.approx(12.5 * GB * REACHED)
    single = Network.of_gpus(H100, 2, 2, asked_links(["ethernet-100"]))
    assert single.bandwidth == ethernet.bandwidth
    assert ethernet.name == "NVLink 4 in a machine, 100 Gbit Ethernet between 2"


def test_small_sums_over_many_machines_go_up_and_down_a_tree() -> None:
    many = Network.of_gpus(H100, 1024, 128)
    tree = START_SECONDS + 2 * (7 * 3.4e-6 + 7 * 14e-6)
    assert many.reduce_seconds(0) == pytest.approx(tree)
    assert many.gather_seconds(0) == pytest.approx(START_SECONDS + 127 * 14e-6 + 896 * 3.4e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nvlink-9"], "--interconnect nvlink-9: not a known interconnect. Did you mean nvlink-"),
        (["carrier pigeon"], "Known: nvlink-2, "),
        (["pcie-4", "nvlink-4"], "pcie-4 already stands inside machines"),
    ],
)
def test_what_is_asked_for_wrongly_is_told(names: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        asked_links(names)


def test_names_are_found_as_people_type_them() -> None:
    assert find_link("NVLink 4").key == find_link("nvlink4").key == "nvlink-4"
