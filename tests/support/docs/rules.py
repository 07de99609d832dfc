"""Each kind of command in README and docs, and how the tests check it.

A command has the first rule that knows it. Without one, the test of its page fails: write a rule,
or an entry of `FOREIGN` or `COMPOSED`, each with the reason why it is not run.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

from align_train.commands.line import MODULES
from tests.support.commands import REPOSITORY
from tests.support.docs.composing import error_of
from tests.support.docs.shell import Command

# Programs that are none of ours -> why the tests do not run them.
FOREIGN = {
    "apptainer": "needs a kernel with user namespaces, and images from a registry",
    "chmod": "is for a folder that several users share",
    "docker": "needs a daemon, and images from a registry",
    "enroot": "needs images from a registry",
    "gcloud": "needs an account",
    "git": "fetches the project, which is here",
    "hf": "needs the hub",
    "img2dataset": "downloads images",
    "kubectl": "needs a cluster",
    "lint-imports": "part of `make check`",
    "mlflow": "is a server that never ends",
    "mypy": "part of `make check`",
    "optuna-dashboard": "is a server that never ends",
    "pre-commit": "installs hooks into the checkout",
    "ruff": "part of `make check`",
    "scancel": "needs Slurm",
    "sinfo": "needs Slurm",
    "sky": "needs an account of a cloud",
    "squeue": "needs Slurm",
    "tail": "never ends",
    "tensorboard": "is a server that never ends",
    "trackio": "is a server that never ends",
    "wandb": "needs an account",
    "xdg-open": "needs a desktop",
    "launch/download_coyo.sh": "downloads millions of images",
    "launch/install.sh": "installs into the machine",
    "tests/slurm/install.sh": "installs into the machine",
    "benchmarks/gpu/from_kit.sh": "needs a GPU",
    "source": "changes the shell alone",
    ".": "changes the shell alone",
}

# Programs of every system, which run as they stand.
EVERYWHERE = {"base64", "cat", "cd", "cp", "curl", "echo", "export", "head", "ls", "mkdir", "mv"}
EVERYWHERE |= {"printf", "rm", "sed", "sleep", "sort", "tar", "touch", "wc"}

# What a setting of ours says -> why the command is composed and not run.
COMPOSED = {
    r"trainer=(multinode|gpu)": "needs GPUs",
    r"device=cuda.*": "needs a GPU",
    r"trainer\.nodes=(?!1$).*": "needs a cluster",
    r"trainer\.devices=([3-9]|\d\d+)": "needs more cores than a small machine has",
    r"model=(b3_mini|b5_base|b7_base|l2_large|timm_base|by_name)": "takes hours without a GPU",
    r"experiment=(align_paper|coyo_align|lit|finetune_\w+|linear_probe)": "needs trained weights",
    r"data=(coyo700m|cc12m)": "needs data that is larger than this disk",
    r"(model|models|model\.path|distillation\.model)=\[?(kakaobrain|openai|google|laion|timm)/.*": (
        "needs a model of the hub"
    ),
    r"source=EMOJI/.*|experiment=emoji.*": "needs drawings of other projects",
    r"push=.*": "writes to the hub",
    r".*=\[?'?(hf:|hf://|https?://(?!127\.0\.0\.1|localhost)|s3://|gs://).*": (
        "needs a host that is not here"
    ),
    r"eval\.wds\.sets=.*": "needs sets of the hub",
    r"eval=\[?(imagenet|coco|flickr30k).*": "needs images with a licence",
}

_GPUS_OF_A_NODE = 8

_SHORTENED = "…"
_PLACEHOLDER = re.compile(r"[\w.+]+=.*\b[A-Z][A-Z/]*\b.*|[A-Z]+")  # step=N, COMMAND


@dataclass(frozen=True)
class Rule:
    """A kind of command.

    Attributes:
        knows: Whether a command is of the kind.
        error: What is wrong with a command, found in a moment; empty: nothing. It gets the
            folder with the files that the page writes.
        reason: Why a command is not run; empty: it is.
    """

    name: str
    knows: Callable[[Command], bool]
    error: Callable[[Command, Path], str]
    reason: Callable[[Command], str]


def rule_of(command: Command) -> Rule | None:
    """The first rule that knows the command."""
    return next((rule for rule in RULES if rule.knows(command)), None)


def of_ours(words: tuple[str, ...]) -> tuple[str, list[str]] | None:
    """The module and the arguments of a line that runs one of our commands, or a launcher of it."""
    if PurePath(words[0]).name == "align-train":
        return _by_one_name(words[1:])
    if "-m" in words[:-1] and _runs_python(words):
        module, *arguments = words[words.index("-m") + 1 :]
        if re.fullmatch(r"align_train(\.\w+)*|data\.\w+", module):
            return module, arguments
    return None


def _by_one_name(words: tuple[str, ...]) -> tuple[str, list[str]]:
    if words and words[0] in MODULES:
        return MODULES[words[0]].replace("align_train.data.", "data."), list(words[1:])
    if words and "=" in words[0]:
        return "align_train", list(words)
    return "align_train.commands.line", list(words)


def _runs_python(words: tuple[str, ...]) -> bool:
    before = words[: words.index("-m")]
    return before[0] in ("torchrun", "mpirun", "srun") or _is_python(before[-1])


def _is_python(word: str) -> bool:
    return PurePath(word).name in ("python", "python3")


# A command of ours.


def _ours_error(command: Command, folder: Path) -> str:
    found = of_ours(command.words)
    assert found is not None
    module, arguments = found

    if command.inline:
        if _PLACEHOLDER.fullmatch(module.rpartition(".")[2]):
            return ""
        arguments = [word for word in arguments if not _is_open(word)]
    elif any(_SHORTENED in word for word in command.words):
        return f"shortened by {_SHORTENED}: a block's command must be whole"

    if module == "align_train.commands.line":
        known = not arguments or arguments[0] in ("-h", "--help", "--version")
        return "" if known else f"{arguments[0]}: no command of align-train"
    if importlib.util.find_spec(module) is None:
        return f"{module}: no such module"

    error = error_of(module, arguments, folder, command.environment)
    return "" if command.inline and "is not set; give" in error else error


def _is_open(word: str) -> bool:
    """Whether a word of a text stands for others: `…`, `model=…`, `step=N`."""
    return _SHORTENED in word or _PLACEHOLDER.fullmatch(word) is not None


def _ours_reason(command: Command) -> str:
    if command.words[0] in ("mpirun", "srun", "torchrun"):
        return "needs a launcher, which the tests of cluster/ have"
    for word in command.words:
        for pattern, reason in COMPOSED.items():
            if re.fullmatch(pattern, word):
                return reason
    return ""


# Benchmarks: arguments are parsed in the long tier, since they import peers.


def _is_benchmark(command: Command) -> bool:
    module = module_of(command)
    return module.startswith("benchmarks.")


def module_of(command: Command) -> str:
    """The module that `python -m` runs; empty: the command runs none."""
    words = command.words
    return words[2] if len(words) > 2 and _is_python(words[0]) and words[1] == "-m" else ""


def _benchmark_error(command: Command, _folder: Path) -> str:
    module = module_of(command)
    if command.inline and _PLACEHOLDER.fullmatch(module.rpartition(".")[2]):
        return ""
    folder = REPOSITORY / module.replace(".", "/")
    there = (folder / "__main__.py").is_file() or folder.with_suffix(".py").is_file()
    return "" if there else f"{module}: no such module"


# Launchers of this repository.


def _is_sbatch(command: Command) -> bool:
    return command.words[0] == "sbatch"


def _sbatch_error(command: Command, folder: Path) -> str:
    words = list(command.words[1:])
    options: list[str] = []
    while words and words[0].startswith("-"):
        options.append(words.pop(0))
    if not words or not (REPOSITORY / words[0]).is_file():
        return f"no script of this repository: {words[:1]}"
    script = REPOSITORY / words[0]

    given = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script.read_text()))
    given |= dict(re.findall(r"--([\w-]+)=(\S+)", " ".join(options)))
    tasks, nodes = int(given.get("ntasks-per-node", 1)), int(given.get("nodes", 1))
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(tasks * nodes),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x{nodes})",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    return _script_error(script, words[1:], folder, slurm)


def _script_error(
    script: Path, arguments: list[str], folder: Path, environment: dict[str, str]
) -> str:
    """Checks a script's syntax, and composes the command that gets the arguments."""
    done = subprocess.run(["/bin/bash", "-n", str(script)], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip()
    (module,) = set(re.findall(r'-m (align_train[\w.]*) "\$@"', script.read_text()))
    return error_of(module, arguments, folder, environment)


def _is_torchrun(command: Command) -> bool:
    return command.words[0] == "launch/torchrun.sh"


def _torchrun_error(command: Command, folder: Path) -> str:
    nodes = int(command.environment.get("NODES", 1))
    processes = int(command.environment.get("PROCESSES", _GPUS_OF_A_NODE))
    torchrun = {
        "TORCHELASTIC_RUN_ID": "1",
        "WORLD_SIZE": str(nodes * processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "RANK": "0",
        "LOCAL_RANK": "0",
    }
    script, *arguments = command.words
    return _script_error(REPOSITORY / script, arguments, folder, torchrun)


# Tools of a developer.


def _is_make(command: Command) -> bool:
    return command.words[0] == "make"


def _make_error(command: Command, _folder: Path) -> str:
    targets = [word for word in command.words[1:] if "=" not in word and not word.startswith("-")]
    makefile = (REPOSITORY / "Makefile").read_text()
    known = " ".join(re.findall(r"^([\w./ -]+):", makefile, re.MULTILINE)).split()
    missing = [word for word in targets if word not in known]
    return f"no target of the Makefile: {' '.join(missing)}" if missing else ""


def _is_pip(command: Command) -> bool:
    words = [PurePath(word).name for word in command.words]
    return words[:2] == ["pip", "install"] or words[:3] == ["uv", "pip", "install"]


def _pip_error(command: Command, _folder: Path) -> str:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for found in re.finditer(r"(?:^|\s)(?:align_train|\.)\[([\w,]+)\]", " ".join(command.words)):
        unknown = set(found[1].split(",")) - set(project["optional-dependencies"])
        if unknown:
            return f"no extra of pyproject.toml: {' '.join(sorted(unknown))}"
    return ""


def _is_python_code(command: Command) -> bool:
    return _is_python(command.words[0]) and command.words[1:2] == ("-c",)


def _python_code_error(command: Command, _folder: Path) -> str:
    return python_error(command.words[2])


def python_error(text: str) -> str:
    """What is wrong with the syntax of a text; empty: nothing."""
    try:
        ast.parse(text)
    except SyntaxError as error:
        return f"{error.msg} ({error.text})"
    return ""


def _python_code_reason(command: Command) -> str:
    by_name = re.search(r"load\(.[\w-]+/[\w-]+", command.words[2])
    local = by_name and "outputs/" in by_name[0]
    return "needs a model of the hub" if by_name and not local else ""


def _is_our_tool(command: Command) -> bool:
    module = module_of(command)
    return module.startswith("tests.") or module in ("pytest", "venv", "ipykernel", "jupyter")


def _our_tool_error(command: Command, _folder: Path) -> str:
    module = module_of(command)
    if module.startswith("tests.") and importlib.util.find_spec(module) is None:
        return f"{module}: no such module"
    return _missing_files(command)


# Programs of others.


def _is_foreign(command: Command) -> bool:
    return _program(command) in FOREIGN


def _program(command: Command) -> str:
    """The program's name; a file of this repository by its path."""
    word = command.words[0]
    return word if (REPOSITORY / word).is_file() else PurePath(word).name or word


def _foreign_error(command: Command, _folder: Path) -> str:
    return _missing_files(command)


def _missing_files(command: Command) -> str:
    """Names the files of this repository that a command means and that are not there."""
    for word in command.words:
        for path in re.findall(r"(?:^|=)((?:launch|conf|tests|docs|benchmarks)/[\w./-]+)", word):
            if not (REPOSITORY / path).exists():
                return f"{path}: no such file"
    return ""


def _is_everywhere(command: Command) -> bool:
    return _program(command) in EVERYWHERE


def _nothing(_command: Command, _folder: Path) -> str:
    return ""


def _run(_command: Command) -> str:
    return ""


RULES = (
    Rule("ours", lambda one: of_ours(one.words) is not None, _ours_error, _ours_reason),
    Rule("benchmark", _is_benchmark, _benchmark_error, _run),
    Rule("sbatch", _is_sbatch, _sbatch_error, lambda _: "needs Slurm"),
    Rule("torchrun", _is_torchrun, _torchrun_error, lambda _: "tests/launch runs the script"),
    Rule("make", _is_make, _make_error, lambda _: "the targets are how this project is tested"),
    Rule("pip", _is_pip, _pip_error, lambda _: "changes the environment"),
    Rule("python -c", _is_python_code, _python_code_error, _python_code_reason),
    Rule("tool", _is_our_tool, _our_tool_error, lambda _: "a developer's tool"),
    Rule("foreign", _is_foreign, _foreign_error, lambda one: FOREIGN[_program(one)]),
    Rule("everywhere", _is_everywhere, _nothing, _run),
)
