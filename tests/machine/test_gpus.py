"""The table of GPUs."""

from __future__ import annotations

import pytest

from tunesmith.errors import PlanError
from tunesmith.machine.gpus import find_gpu, gpu_of_device, gpus

WANTED = (
    "t4 l4 a10 a100-40gb a100-80gb v100-16gb rtx-3090 rtx-4090 rtx-5090 h100-pcie h100-sxm h200 b200 l40s rtx-a6000 "
    "mi300x a16 a30 a40 l40 rtx-a4000 rtx-a5000 rtx-6000-ada rtx-pro-6000 h100-nvl gh200"
)


def test_every_row_is_plausible_and_cited() -> None:
    keys = [gpu.key for gpu in gpus()]
    assert set(WANTED.split()) <= set(keys)
    assert len(set(keys)) == len(keys)
    for gpu in gpus():
        assert gpu.source.startswith("https://")
        assert 8e9 < gpu.memory_bytes < 3e11
        assert 0.85 < gpu.memory_bytes / 2**30 / gpu.sold_gigabytes <= 1
        assert 4e12 < gpu.fp32 < gpu.matrix < 3e15
        assert 2e11 <= gpu.bandwidth < 1e13


@pytest.mark.parametrize(
    ("name", "key"),
    [("a100-80gb", "a100-80gb"), ("A100 80GB", "a100-80gb"), ("RTX 4090", "rtx-4090"), ("4090", "rtx-4090"),
     ("NVIDIA L4", "l4"), ("NVIDIA A100-PCIE-40GB", "a100-40gb"), ("A100 80 GB", "a100-80gb"),
     ("a40", "a40"), ("v100", "v100-32gb"), ("Tesla T4", "t4")],
)  # fmt: skip
def test_a_gpu_is_found_however_it_is_written(name: str, key: str) -> None:
    assert find_gpu(name).key == key


def test_an_unknown_gpu_gets_near_matches() -> None:
    with pytest.raises(PlanError, match=r"--gpu h1oo: not a GPU in the table\. Did you mean .*h100"):
        find_gpu("h1oo")


@pytest.mark.parametrize("name", ["", "quantum"])
def test_what_is_near_nothing_gets_the_whole_list(name: str) -> None:
    with pytest.raises(PlanError, match=r"Known: t4, .*mi300x"):
        find_gpu(name)


@pytest.mark.parametrize(
    ("device", "key"),
    [("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("NVIDIA A100-PCIE-40GB", "a100-40gb"), ("Tesla T4", "t4"),
     ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA L40S", "l40s"),
     ("NVIDIA A10G", "a10g"), ("NVIDIA A10", "a10"), ("Tesla V100-SXM2-16GB", "v100-16gb"), ("NVIDIA H200", "h200"),
     ("NVIDIA H100 NVL", "h100-nvl"), ("NVIDIA L40", "l40"), ("NVIDIA RTX A4000", "rtx-a4000"),
     ("NVIDIA GH200 480GB", "gh200"),
     ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("GeForce GTX 1080", None)],
)  # fmt: skip
def test_what_cuda_calls_a_device_leads_to_its_row(device: str, key: str | None) -> None:
    found = gpu_of_device(device)
    assert (found.key if found is not None else None) == key


def test_every_row_is_named_as_the_device_names_itself() -> None:
    for gpu in gpus():
        assert gpu_of_device(gpu.name) == gpu
        assert find_gpu(gpu.name) == gpu
