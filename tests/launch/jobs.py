"""The commands of the files for SkyPilot and Kubernetes, as these would start them on a machine."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from tests.support.commands import REPOSITORY

_REFERENCE = re.compile(r"\$\((\w+)\)")


class Command(NamedTuple):
    """The command of one machine.

    Attributes:
        words: The program and its arguments.
        environment: The variables that it gets.
    """

    words: list[str]
    environment: dict[str, str]


def sky() -> dict[str, Any]:
    """The task of SkyPilot."""
    return _read("sky.yaml")


def jobset() -> dict[str, Any]:
    """The JobSet of Kubernetes."""
    return _read("jobset.yaml")


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "launch" / name).read_text())
    return content


def pods(job: dict[str, Any]) -> dict[str, Any]:
    """The pods of the only job of a JobSet."""
    (replicated,) = job["spec"]["replicatedJobs"]
    of_pods: dict[str, Any] = replicated["template"]["spec"]
    return of_pods


def container(job: dict[str, Any]) -> dict[str, Any]:
    """The only container of a JobSet's pods."""
    (only,) = pods(job)["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def sky_command(machine: int, *, machines: int, gpus: int, settings: str) -> Command:
    """The task of one machine, with the variables that SkyPilot's documentation lists."""
    addresses = "\n".join(["127.0.0.1"] * machines)
    environment = {
        "SKYPILOT_NUM_NODES": str(machines),
        "SKYPILOT_NODE_RANK": str(machine),
        "SKYPILOT_NODE_IPS": addresses,
        "SKYPILOT_NUM_GPUS_PER_NODE": str(gpus),
        "SETTINGS": settings,
    }
    return Command(["bash", "-c", sky()["run"]], environment)


def pod_command(machine: int, *, changed: dict[str, str]) -> Command:
    """The container of one machine. changed: variables that are other ones in a test.

    A reference `$(NAME)` is to a variable before it, as Kubernetes has it. The image's checkout is
    this one.
    """
    of_pod = {
        "metadata.annotations['batch.kubernetes.io/job-completion-index']": str(machine),
        "metadata.labels['jobset.sigs.k8s.io/jobset-name']": jobset()["metadata"]["name"],
    }
    environment: dict[str, str] = {}
    for variable in container(jobset())["env"]:
        if "value" in variable:
            value = _REFERENCE.sub(lambda match: environment[match[1]], variable["value"])
        else:
            value = of_pod[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        environment[variable["name"]] = value
    only = container(jobset())
    (script,) = only["command"]
    script = script.replace("/opt/align_train", str(REPOSITORY))
    return Command([script, *only["args"]], environment | changed)
