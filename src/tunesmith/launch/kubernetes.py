"""Kubernetes: an Indexed Job, one pod a machine, and the Service by whose name the pods find the first one.

A pod that was evicted, or that stopped at a step boundary (75), is made again and goes on from the last checkpoint; a
mistake of the user's (2) ends the Job at once. Batch API v1, as of Kubernetes 1.31.
"""

from __future__ import annotations

from typing import Any

import yaml

from tunesmith.errors import RunError, Stopped, TunesmithError
from tunesmith.launch.job import PORT, Job

GPU_RESOURCE = "nvidia.com/gpu"
WORKSPACE = "/workspace"
GRACE_SECONDS = 300
"""How long a pod that is told to end may save."""
MAX_FAILURES = 6


def text(job: Job) -> str:
    """The manifest, two documents. Raises RunError without an image, or without a volume that outlives the pods."""
    missing = [option for option, value in (("--image", job.image), ("--volume", job.volume)) if not value]
    if missing:
        raise RunError(
            f"launch --engine kubernetes: {' and '.join(missing)} missing. Name a container image that has tunesmith, "
            "and the persistent volume claim that holds recipe, data and run (mounted as the working directory)."
        )
    return yaml.safe_dump_all([_service(job), _job(job)], sort_keys=False)


def _service(job: Job) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": job.name},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"job-name": job.name},
            "ports": [{"name": "first", "port": PORT}],
        },
    }


def _job(job: Job) -> dict[str, Any]:
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [Stopped.exit_code]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [TunesmithError.exit_code]}},
    ]
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": job.num_nodes,
        "parallelism": job.num_nodes,
        "backoffLimit": MAX_FAILURES * job.num_nodes,
        "podFailurePolicy": {"rules": rules},
    }
    if job.wall_seconds is not None:
        spec["activeDeadlineSeconds"] = job.wall_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job.name},
        "spec": spec | {"template": {"spec": _pod(job)}},
    }


def _pod(job: Job) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "train",
        "image": job.image,
        "command": ["tunesmith", *job.machine_arguments],
        "workingDir": WORKSPACE,
        "env": _rendezvous(job) if job.num_nodes > 1 else [],
        "volumeMounts": [
            {"name": "workspace", "mountPath": WORKSPACE},
            {"name": "memory", "mountPath": "/dev/shm"},
        ],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "subdomain": job.name,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": job.volume}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},  # NCCL talks through it; 64 MiB are the default
        ],
    }
    if job.gpu:
        container["resources"] = {"limits": {GPU_RESOURCE: job.num_processes}}
        pod["nodeSelector"] = {"nvidia.com/gpu.product": job.gpu}
    return pod


def _rendezvous(job: Job) -> list[dict[str, Any]]:
    """What each pod is told, under torchrun's names."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return [
        {"name": "PET_NNODES", "value": str(job.num_nodes)},
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "PET_MASTER_ADDR", "value": f"{job.name}-0.{job.name}"},
        {"name": "PET_MASTER_PORT", "value": str(PORT)},
    ]
