"""The files for SkyPilot and Kubernetes: their variables, and training as they start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from align_train.config.compose import compose_training
from tests.launch.jobs import Command, container, jobset, pod_command, pods, sky, sky_command
from tests.support.commands import checkout
from tests.support.ports import free_port
from tests.support.runs import metrics

SETTINGS = (
    "trainer.accelerator=cpu precision=fp32 name=first max_steps=3 batch_size=16 norm_group=8"
)


def torchrun_of(command: Command, tmp_path: Path) -> str:
    """What the command calls, with echo in Python's place."""
    environment = {"PATH": os.environ["PATH"], "PYTHON": "echo"} | command.environment
    done = subprocess.run(
        command.words,
        env=environment,
        cwd=checkout(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_skypilot_says_who_a_machine_is(tmp_path: Path) -> None:
    command = sky_command(2, machines=4, gpus=8, settings="data=coyo700m name='my run'")
    called = torchrun_of(command, tmp_path)

    assert "--nnodes 4 --node-rank 2 --nproc-per-node 8 --master-addr 127.0.0.1 " in called
    assert called.split("-m align_train ")[1].startswith(
        "trainer=multinode output_dir=/outputs data=coyo700m"
    )


def test_kubernetes_says_who_a_machine_is(tmp_path: Path) -> None:
    called = torchrun_of(pod_command(3, changed={}), tmp_path)
    # JobSet's name of the first pod: JOBSET-JOB-REPLICA-POD.JOBSET.
    master = "align-train-machine-0-0.align-train"
    assert f"--nnodes 4 --node-rank 3 --nproc-per-node 8 --master-addr {master} " in called


def test_a_jobset_says_its_sizes_alike_everywhere() -> None:
    environment = pod_command(0, changed={}).environment
    job = pods(jobset())
    assert int(environment["NODES"]) == job["parallelism"] == job["completions"]

    limits = container(jobset())["resources"]["limits"]
    assert int(environment["PROCESSES"]) == limits["nvidia.com/gpu"]
    ports = [port["containerPort"] for port in container(jobset())["ports"]]
    assert ports == [29500, 29501]


def test_skypilot_asks_for_the_gpus_that_the_run_expects() -> None:
    assert sky()["resources"]["accelerators"].endswith(":8")
    assert list(sky()["volumes"]) == ["/outputs"]


def test_the_settings_of_a_jobset_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = pod_command(0, changed={}).environment
    ranks = int(variables["NODES"]) * int(variables["PROCESSES"])
    started = {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": variables["PROCESSES"],
        "GROUP_WORLD_SIZE": variables["NODES"],
    }
    for name, value in started.items():
        monkeypatch.setenv(name, value)

    settings = compose_training(*container(jobset())["args"])
    assert (settings.trainer.nodes, settings.trainer.devices) == (4, 8)
    assert settings.output_dir == "/outputs"


@pytest.mark.long
@pytest.mark.parametrize("cloud", ["sky", "kubernetes"])
def test_two_machines_train_as_a_cloud_starts_them(cloud: str, tmp_path: Path) -> None:
    port = str(free_port())
    own = {"PORT": port, "PYTHON": sys.executable}
    settings = f"{SETTINGS} output_dir={tmp_path / 'outputs'}"
    machines = []
    for machine in range(2):
        if cloud == "sky":
            command = sky_command(machine, machines=2, gpus=1, settings=settings)
        else:
            changed = {"NODES": "2", "PROCESSES": "1", "MASTER": "127.0.0.1"}
            command = pod_command(machine, changed=changed)
            script = command.words[0]
            words = [script, "trainer=multinode", *settings.split()]
            command = command._replace(words=words)
        machines.append(
            subprocess.Popen(
                command.words,
                env={**os.environ, "OMP_NUM_THREADS": "1", **command.environment, **own},
                cwd=checkout_of(tmp_path, machine),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [machine.communicate(timeout=400)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert [row["step"] for row in metrics(tmp_path / "outputs" / "first")][-1] == "3"


def checkout_of(folder: Path, machine: int) -> Path:
    own = folder / f"machine{machine}"
    own.mkdir()
    return checkout(own)
