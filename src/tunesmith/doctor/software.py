"""Python, packages, and whether torch and the GPU driver fit each other."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path

from tunesmith.run.artefacts import Finding

LEAST_PYTHON = (3, 11)
OPTIONAL = {
    "bitsandbytes": "train.method qlora and the 8-bit optimizer: pip install 'tunesmith[qlora]'",
    "xllamacpp": "export --format gguf: pip install 'tunesmith[gguf]'",
    "onnxruntime": "export --format onnx: pip install 'tunesmith[onnx]'",
    "pypdf": "pdf, docx and md files: pip install 'tunesmith[documents]'",
    "s3fs": "data at s3://: pip install 'tunesmith[s3]'",
    "gcsfs": "data at gs://: pip install 'tunesmith[gs]'",
    "lm_eval": "public benchmarks: pip install 'tunesmith[lm-eval]'",
}
_ESSENTIAL = {"torch", "transformers", "safetensors", "numpy", "pydantic", "pyyaml", "pyarrow", "accelerate"}


def check_python() -> Finding:
    """The version of Python, and whether it is a virtual environment's."""
    version = sys.version_info[:2]
    where = "in a virtual environment" if sys.prefix != sys.base_prefix else f"at {sys.prefix}"
    found = f"Python {platform.python_version()} {where}, {platform.system()} {platform.machine()}"
    if version < LEAST_PYTHON:
        needed = ".".join(map(str, LEAST_PYTHON))
        return Finding(
            name="python",
            status="failed",
            found=found,
            fix=f"Expected {needed} or newer. Make an environment with it.",
            is_fatal=True,
        )
    return Finding(name="python", status="ok", found=found)


def check_packages() -> Finding:
    """Every package that tunesmith needs, against the least version that it names."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        required = metadata.requires("tunesmith") or []
    except metadata.PackageNotFoundError:
        return Finding(
            name="packages", status="warn", found="tunesmith is run without being installed.", fix="Run: pip install ."
        )
    wrong: dict[str, str] = {}
    wanted = [requirement for requirement in map(Requirement, required) if _applies(requirement)]
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong[name] = f"{name} is missing"
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong[name] = f"{name} is {installed}, expected {requirement.specifier}"
    if not wrong:
        return Finding(name="packages", status="ok", found=f"all {len(wanted)} required packages are installed")
    fix = "Run: pip install --upgrade tunesmith"
    return Finding(
        name="packages",
        status="failed",
        found="; ".join(wrong.values()),
        fix=fix,
        is_fatal=bool(_ESSENTIAL & wrong.keys()),
    )


def _applies(requirement: object) -> bool:
    marker = getattr(requirement, "marker", None)
    return marker is None or bool(marker.evaluate({"extra": ""}))


def check_torch() -> Finding:
    """Whether this torch can use the GPU that is there."""
    try:
        import torch
    except Exception as error:  # a broken installation raises many things
        found = f"torch cannot be imported ({type(error).__name__}: {str(error).splitlines()[0][:150]})"
        return Finding(
            name="torch",
            status="failed",
            found=found,
            fix="Install it again: pip install --force-reinstall torch",
            is_fatal=True,
        )
    from tunesmith.doctor.hardware import nvidia_driver

    version = torch.__version__
    driver = nvidia_driver()
    if torch.version.hip:
        usable = "usable" if torch.cuda.is_available() else "no GPU is usable"
        return Finding(name="torch", status="ok", found=f"torch {version} for ROCm {torch.version.hip}, {usable}")
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPU only"
    found = f"torch {version} {built}"
    if driver is None:
        return Finding(name="torch", status="ok", found=f"{found}; no NVIDIA driver here")
    found += f"; driver {driver.version} for CUDA {driver.cuda[0]}.{driver.cuda[1]} and older"
    if torch.cuda.is_available():
        return Finding(name="torch", status="ok", found=found)
    return Finding(
        name="torch",
        status="failed",
        found=found + "; torch cannot use the GPU, so the CPU would train",
        fix=_fix(torch, driver.cuda),
    )


def _fix(torch: object, driver_cuda: tuple[int, int]) -> str:
    built = getattr(torch, "version").cuda  # noqa: B009  (torch may be any build, or a stand-in)
    if built is None:
        return "Install a torch built for CUDA, as https://pytorch.org/get-started says."
    if int(built.split(".")[0]) > driver_cuda[0]:
        return f"Update the driver to one for CUDA {built}, or install a torch built for CUDA {driver_cuda[0]}."
    return "Look at CUDA_VISIBLE_DEVICES, at the container's access to the GPU, and restart after a driver update."


def check_optional() -> Finding:
    """Which optional packages are installed, and what the others would add."""
    missing = [what for name, what in OPTIONAL.items() if importlib.util.find_spec(name) is None]
    present = [name for name in OPTIONAL if importlib.util.find_spec(name) is not None]
    found = f"installed: {', '.join(present) or 'none'}"
    return Finding(
        name="optional", status="ok", found=found + (f"; not installed: {'; '.join(missing)}" if missing else "")
    )


def package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None
