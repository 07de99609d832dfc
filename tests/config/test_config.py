"""Every configuration composes and passes its check.

Every kind of wrong input ends in one clear line, within seconds.
"""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_train.commands.spelled_out import explicit
from align_train.config.check import check
from align_train.config.command_schema import (
    AverageSettings,
    EmbedSettings,
    EvaluateSettings,
    ExportSettings,
    ReportSettings,
    ScoreSettings,
    SearchSettings,
    ShowSettings,
)
from align_train.config.components import build, without_runs_own
from align_train.config.compose import (
    compose_command,
    compose_training,
    register,
    unresolved_training,
)
from align_train.config.messages import no_such_setting
from align_train.config.schema import TrainSettings
from align_train.config.serve_schema import ServeSettings
from align_train.config.split import check_split
from align_train.errors import UserError
from align_train.shards.write import write_shard
from align_train.strategy import RunFacts
from data.balancing.settings import BalanceSettings
from data.demo import DemoSettings
from data.failed import FailedSettings
from data.filter.settings import FilterSettings
from data.manifest import ManifestSettings
from data.packing.settings import PackSettings
from data.repeats.settings import RepeatsSettings
from data.vocabulary import VocabularySettings
from tests.support.commands import REPOSITORY, SMALL_MAKE, finish, start
from tests.support.settings import CONF, composed


def choices(*groups: str) -> list[str]:
    return [
        f"{group}={path.stem}" for group in groups for path in sorted((CONF / group).glob("*.yaml"))
    ]


# What a user has to say in any case.
OF_CLASSES = (
    "model=classifier",
    "loss=classification",
    "experiment=finetune_classification",
    "experiment=linear_probe",
)


GIVEN = ("data.shards=somewhere", "data.tokenizer=somewhere")


PLACES = {
    "optimizer=timm": ("optimizer.name=lion",),
    "eval=imagenet": ("eval.imagenet.data.path=x",),
    "eval=zero_shot": ("eval.zero_shot.data.path=x",),
    "eval=zero_shot_shards": ("eval.zero_shot.data.shards=x",),
    "eval=wds": ("eval.wds.sets=[mine]",),
    "eval=knn_folders": ("eval.knn.train.path=x", "eval.knn.data.path=x"),
    "eval=linear_probe_folders": (
        "eval.linear_probe.train.path=x",
        "eval.linear_probe.data.path=x",
    ),
    "eval=coco": ("eval.coco.data.file=x", "eval.coco.data.images=x"),
    "eval=flickr30k": ("eval.flickr30k.data.file=x", "eval.flickr30k.data.images=x"),
    "eval=simlex": ("eval.simlex.file=x",),
    "eval=sts": ("eval.sts.file=x",),
}


@pytest.mark.parametrize(
    "choice",
    choices(
        "model", "loss", "optimizer", "scheduler", "trainer", "strategy", "logger", "data", "eval"
    ),
)
def test_every_choice_composes_and_passes_its_check(choice: str, small_align: Path) -> None:
    check_explicit(
        small_align, "batch_size=1024", "norm_group=16", *GIVEN, choice, *PLACES.get(choice, ())
    )


def check_explicit(model: Path, *overrides: str) -> None:
    """Checks the settings with explicit data; a classifier has classes in place of a tokenizer.

    Args:
        model: The folder of the weights, for a recipe that begins with trained ones.
        overrides: The settings.
    """
    if any(override.startswith(OF_CLASSES) for override in overrides):
        kept = [override for override in overrides if not override.startswith("data.tokenizer=")]
        others = [
            choice for choice in ("model=classifier", "loss=classification") if choice not in kept
        ]
        overrides = (*others, *kept, "data.tokenizer=null", "data.classes=10")
    # `in` does not see a key whose value is yet to be given.
    chooses_model = any(override.startswith(("model=", "experiment=")) for override in overrides)
    if chooses_model and "path" in list(unresolved_training(*overrides).model):
        overrides = (*overrides, f"model.path={model}")
    check(compose_training(*overrides, fill_in=explicit))


@pytest.mark.parametrize(
    "experiment", [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))]
)
def test_every_experiment_composes_and_passes_its_check(experiment: str, small_align: Path) -> None:
    check_explicit(small_align, f"experiment={experiment}", *GIVEN)


def test_published_recipes() -> None:
    paper = composed("experiment=align_paper", *GIVEN)
    assert (
        paper.batch_size,
        paper.max_steps,
        paper.optimizer["lr"],
        paper.scheduler["warmup_steps"],
    ) == (
        16384,
        1_200_000,
        1e-3,
        10_000,
    )
    assert (
        paper.model["image_tower"]["width"],
        paper.loss["label_smoothing"],
        paper.optimizer["weight_decay"],
    ) == (4.3, 0.1, 1e-5)
    coyo = composed("trainer=multinode", "data=coyo700m")
    assert (
        coyo.batch_size,
        coyo.max_steps,
        coyo.optimizer["lr"],
        coyo.scheduler["warmup_steps"],
    ) == (
        65536,
        300_000,
        2e-3,
        40_000,
    )
    assert (coyo.optimizer["_target_"], coyo.norm_group, coyo.precision) == (
        "align_train.optim.Lamb",
        16,
        "bf16",
    )
    assert paper.norm_group == 16


def test_the_hardware_chooses_chunks_and_the_recipe_norm_groups() -> None:
    """Only `trainer=…` changes how much goes through the towers at once."""
    at_once = {
        "cpu": (64, False, False),
        "gpu": ("auto", "auto", "auto"),
        "multinode": ("auto", "auto", "auto"),
    }
    for recipe, group in (((), 64), (("data=coyo700m",), 16), (("data=cc12m",), 64)):
        for trainer, expected in at_once.items():
            settings = composed(f"trainer={trainer}", *recipe)
            assert (settings.chunk_size, settings.recompute, settings.compile) == expected
            assert settings.precision == ("fp32" if trainer == "cpu" and not recipe else "bf16")
            assert settings.norm_group == group
            assert (settings.trainer.timeout, settings.trainer.nodes) == (900.0, 1)

    mine = composed("trainer=gpu", "trainer.devices=2", "chunk_size=128", "recompute=true")
    assert (mine.trainer.accelerator, mine.trainer.devices) == ("gpu", 2)
    assert (mine.chunk_size, mine.recompute) == (128, True)


@pytest.mark.parametrize(
    "overrides",
    [
        ("norm_group=16", "chunk_size=16"),
        ("norm_group=16", "chunk_size=128"),
        ("norm_group=16", "trainer.devices=8", "chunk_size=auto"),
        ("norm_group=null", "chunk_size=1"),
        ("norm_group=null", "chunk_size=auto", "recompute=auto"),
        ("accept=[norm_group,batch_size]",),
    ],
)
def test_chunks_of_whole_norm_groups_pass(overrides: tuple[str, ...]) -> None:
    check(composed(*overrides))


def test_multinode_reads_slurm_and_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables in (
        {"SLURM_NNODES": "4", "SLURM_NTASKS_PER_NODE": "2"},
        {"TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            trainer = composed("trainer=multinode").trainer
            assert (trainer.nodes, trainer.devices) == (4, 2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batch_size=100", "trainer.devices=3"], "batch_size=100 .* 3 processes .* 99 or 102"),
        (
            ["norm_group=48"],
            "norm_group=48 does not divide batch_size=128.*; take norm_group=32 or batch",
        ),
        (["batch_size=127"], "norm_group=64 does not divide batch_size=127.*; take batch_size=64"),
        (["batch_size=32"], "batch_size=32, .*; take norm_group=32 chunk_size=32$"),
        (
            ["trainer.devices=4"],
            "norm_group=64 does not divide the 32 pairs of each of 4 processes "
            ".*; take 2 processes or norm_group=32 chunk_size=32$",
        ),
        (["norm_group=0"], "norm_group=0: expected at least 1"),
        (
            ["norm_group=16", "chunk_size=48"],
            "chunk_size=48: expected a multiple of norm_group=16 that divides batch_size=128; "
            "the nearest smaller: 32; or take chunk_size=auto$",
        ),
        (["norm_group=16", "chunk_size=8"], "chunk_size=8: .*; the smallest: 16; or"),
        (
            ["norm_group=null", "chunk_size=48"],
            "chunk_size=48: expected a divisor of batch_size=128; the nearest smaller: 32; or",
        ),
        (
            ["norm_group=16", "trainer.devices=4"],
            "chunk_size=64: .* the 32 pairs of each of 4 processes .*; the nearest smaller: 32; or",
        ),
        (["chunk_size=0"], "chunk_size=0: expected a number of pairs, at least 1, or auto"),
        (["chunk_size=big"], "chunk_size=big: expected a number of pairs, at least 1, or auto"),
        (["recompute=maybe"], "recompute=maybe: expected true, false or auto"),
        (["compile=no way"], "compile=no way: expected true, false or auto"),
        (["+trainer.chunk_size=64"], "trainer.chunk_size: no such setting, did you mean chunk_siz"),
        (["accept=[chunk_size]"], r"accept=\[chunk_size\]: expected some of .*, norm_group$"),
        (["data.lanes=7"], "data.lanes=7 does not divide batch_size=128.*data.lanes=4"),
        (
            ["trainer.devices=8", "norm_group=16", "chunk_size=16", "data.lanes=4"],
            "data.lanes=4 cannot be shared .* 8 processes",
        ),
        (
            [
                "data.shards=[a,b]",
                "data.weights=[3,1]",
                "data.lanes=8",
                "trainer.devices=4",
                "norm_group=16",
                "chunk_size=16",
            ],
            r"data.lanes=8 cannot be shared out as data.weights=\[3, 1\] "
            r"on each of 4 processes.*data.lanes=16",
        ),
        (
            ["data.shards=[a,b]", "data.weights=[3,0]"],
            r"data.weights=\[3, 0\]: expected whole numbers",
        ),
        (["data.weights=3"], "data.weights=3: expected a list"),
        (
            ["data.shards=[a,b]", "data.weights=[1.5,1]"],
            "data.weights=.*expected a list \\(each an integer\\)",
        ),
        (["data.batch_size=16"], "data.batch_size=16: is always the run's own; set batch_size="),
        (["max_steps=null"], "max_steps, max_pairs, epochs: exactly one .*, here none is set"),
        (["max_pairs=5", "epochs=3"], "max_pairs=5, epochs=3: each of them gives the length"),
        (["epochs=nan"], "epochs=nan: expected more than 0"),
        (
            ["epochs=3", "data.shards=[a,b]", "data.weights=[3,1]"],
            "epochs=3: data.weights mixes sources .*; give max_pairs",
        ),
        (["max_steps=0"], "max_steps=0: expected at least 1"),
        (["precision=fp16"], "precision=fp16: expected one of fp32, bf16"),
        (["precision=fp16"], "fp16 would want a loss scaler, bf16"),
        (
            ["strategy._target_=lightning.pytorch.strategies.FSDPStrategy"],
            "FSDP1 flattens parameters .* fsdp \\(FSDP2\\)",
        ),
        (["strategy=deepspeed", "strategy.stage=4"], "strategy.stage=4: expected 1 or 2 or 3"),
        (
            ["strategy=deepspeed", "strategy.stage=3", "compile=true"],
            "compile=true: deepspeed stage 3 gathers .* strategy.stage=2, or strategy=fsdp",
        ),
        (["strategy=fsdp", "+strategy.version=1"], "strategy.version: no such setting"),
        (["loss=sigmoid", "model.bias=null"], "model.bias=None: a bias goes with loss=sigmoid"),
        (["loss.tile=many"], "loss.tile=many: expected an integer"),
        (["name=a/b"], "plain folder name"),
        (["name=\udcff"], "plain folder name"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: expected a number"),
        (["model.lock=both"], "model.lock=both: expected image or text or image:all_but_2"),
        (["model.image_tower.strides=[1,x]"], "model.image_tower.strides=.*: expected a list"),
        (["+optimizer.momentum=0.9"], "optimizer.momentum: no such setting"),
        (["optimizer._target_=align_train.optim.recipes.Sgd"], "no such class"),
        (
            ["model=classifier", "model.path=x"],
            "model=classifier, loss=not classification, data.classes=None: these go together",
        ),
        (["experiment=linear_probe", "model.path=x", "data.shards=x"], "data.classes is not set"),
        (["data.classes=10"], "data.tokenizer, data.classes: texts or labels, not both"),
        (["+model.image_tower.depht=2"], "did you mean model.image_tower.depth"),
        (["data=webdataset"], "data.shards is not set"),
        (["data.lanes=0"], "data.lanes=0: expected an integer, at least 1"),
        (["data.lanes=-8"], "data.lanes=-8: expected an integer, at least 1"),
        (
            ["data.caption=null", "data.caption_weights=[1]"],
            r"data\.caption_weights=\[1\]: data\.caption is not set; give the list",
        ),
        (["data.window=0"], "data.window=0: expected an integer, at least 1"),
        (["data.workers=-1"], "data.workers=-1: expected an integer, at least 0"),
        (["evaluate_every=-1"], "evaluate_every=-1: expected an integer, at least 0"),
        (["seed=-1"], "seed=-1: expected 0 or more"),
        (["trainer.timeout=inf"], "trainer.timeout=inf: expected more than 0, and a finite number"),
        (
            ["trainer.timeout=500"],
            "trainer.timeout=500: expected more than data.staging.patience=600",
        ),
        (["trainer.silence=0"], "trainer.silence=0: expected more than 0"),
        (["trainer.peak_tflops=-1"], "trainer.peak_tflops=-1: expected more than 0"),
        (["keep_every=0"], "keep_every=0: expected at least 1"),
        (["max_skipped_steps=-1"], "max_skipped_steps=-1: expected at least 0"),
        (
            ["max_skipped_steps=1", "strategy=deepspeed"],
            "max_skipped_steps=1: deepspeed stage 2 knows the gradient's norm only after",
        ),
        (["clip=0"], "clip=0.0: expected a gradient norm above 0"),
        (["+callbacks.x=1"], "callbacks: no such setting"),
    ],
)
def test_check_names_the_key_and_the_fix(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        compose_and_check(*overrides)


def compose_and_check(*overrides: str) -> None:
    settings = composed(*overrides)
    before = str(settings)
    try:
        check(settings)
    finally:
        assert str(settings) == before


def check_and_build(settings: TrainSettings) -> None:
    check(settings)
    scheduler = without_runs_own(settings.scheduler, "scheduler")
    for node in (settings.optimizer, scheduler, settings.loss):
        build(node)
    build(settings.strategy).build(RunFacts(processes=2, on_gpu=False))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer.lr=-1"], "optimizer.lr=-1: expected a learning rate"),
        (["optimizer.lr=nan"], "optimizer.lr=nan: expected a learning rate"),
        (["optimizer.betas=[0.9]"], r"optimizer.betas=\[0.9\]: expected two numbers"),
        (["optimizer.exempt=[foo]"], "optimizer.exempt: .*foo.* are no kinds"),
        (["scheduler.warmup_steps=-5"], "warmup_steps=-5"),
        (["loss.tile=0"], "tile=0: expected at least 1"),
        (
            ["strategy=deepspeed", "+strategy.options.stage=3"],
            "strategy.options.stage: not supported",
        ),
        (
            ["strategy=deepspeed", "+strategy.options.offload_optimizer={device:cpu}"],
            "offload_optimizer: not supported",
        ),
        (
            ["strategy=deepspeed", "+strategy.options.overlap_comm=maybe"],
            "overlap_comm=maybe: expected an integer",
        ),
    ],
)
def test_constructors_name_what_cannot_be(overrides: list[str], words: str) -> None:
    settings = composed(*overrides)
    with pytest.raises(UserError, match=words):
        check_and_build(settings)


GIVEN_TO_COMMANDS: dict[str, tuple[type, tuple[str, ...]]] = {
    "average": (AverageSettings, ("models=x", "to=x")),
    "balance": (BalanceSettings, ("source=x", "to=x", "threshold=1")),
    "embed": (EmbedSettings, ("model=x", "shards=x", "to=x")),
    "evaluate": (EvaluateSettings, ("model=x",)),
    "export": (ExportSettings, ("model=x", "to=x")),
    "failed": (FailedSettings, ("shards=x", "source=x", "to=x")),
    "filter": (FilterSettings, ("source=x", "to=x")),
    "make_demo": (DemoSettings, ()),
    "make_manifest": (ManifestSettings, ("shards=x",)),
    "pack": (PackSettings, ("source=x", "to=x")),
    "repeats": (RepeatsSettings, ("source=x", "to=x")),
    "report": (ReportSettings, ("name=x",)),
    "score": (ScoreSettings, ("model=x", "shards=x", "to=x")),
    "search": (SearchSettings, ("index=x",)),
    "serve": (ServeSettings, ("model=x",)),
    "show": (ShowSettings, ("name=x",)),
    "vocabulary": (VocabularySettings, ("source=x", "to=x")),
}


@pytest.mark.parametrize(
    "name",
    [path.stem for path in sorted((CONF / "commands").glob("*.yaml")) if path.stem != "plain"],
)
def test_every_command_composes(name: str) -> None:
    schema, given = GIVEN_TO_COMMANDS[name]
    assert isinstance(compose_command(name, schema, *given), schema)


def test_length_in_pairs() -> None:
    assert composed("max_steps=null", "max_pairs=1280").steps == 10
    assert composed("max_steps=null", "max_pairs=1281").steps == 11


def test_shards_that_cannot_be_opened_are_named(tmp_path: Path, demo: Path) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "nonsense.jsonl").write_text("what?\n")
    write_shard(tmp_path / "texts.tar", [(str(number), {"txt": b"a text"}) for number in range(3)])
    for shards, words in {
        "hollow": "hollow: the folder holds neither manifest.jsonl nor \\*.tar; make shards",
        "empty.jsonl": "empty.jsonl: the manifest lists no pairs",
        "nonsense.jsonl": "nonsense.jsonl, line 1",
        "texts.tar": "texts.tar: no pairs; found: 1 tar without an image",
    }.items():
        config = composed(
            "data=webdataset",
            f"data.shards={tmp_path / shards}",
            f"data.tokenizer={demo}/tokenizer",
            "data.caption=txt",
        )
        check(config)
        with pytest.raises(UserError, match=words):
            build(config.data)


def test_bad_input_ends_in_one_clear_line(tmp_path: Path, demo: Path) -> None:
    """The real command is run once for each way in which an error comes about.

    Its status is 2, and stderr has at most three lines and no stack trace.
    """
    (tmp_path / "cut.tar").write_bytes((demo / "train" / "00000000.tar").read_bytes()[:100_000])
    # A user's own choice of `trainer` that says nothing of chunks.
    own = tmp_path / "conf" / "trainer" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("{accelerator: cpu, devices: 1, nodes: 1}")
    shards = ["data=webdataset", f"data.tokenizer={demo}/tokenizer"]
    cases = {
        ("--config-dir", "conf", "trainer=mine"): "chunk_size is not set; give chunk_size=…",
        ("modle=tiny",): "modle: no such setting, did you mean model?",
        ("model=tinny",): "tiny",
        ("batch_size=abc",): "batch_size=abc: expected integer",
        ("chunk_size=1.5",): "chunk_size=1.5: expected an integer or auto",
        ("data.chunk_size=8",): "data.chunk_size: no such setting, did you mean chunk_size?",
        (
            "batch_size=100",
            "trainer.devices=3",
        ): "batch_size=100 cannot be split evenly over 3 processes",
        (*shards, "data.shards=cut.tar"): "cut.tar: the tar is cut short",
        ("output_dir=/etc/hostname", f"data.make.folder={demo}", *SMALL_MAKE): "/etc/hostname/demo",
        (
            "loss._target_=mine.Loss",
        ): "align_train: loss._target_=mine.Loss: no such class or function",
        (
            "trainer.launcher={_target_: builtins.dict}",
        ): "builtins.dict: makes no launcher; derive it",
        ("model=null",): "a group such as model or data takes the name of a choice",
        (
            "trainer=multinode",
            "data=coyo700m",
        ): "data.shards=shards/coyo700m: no such manifest, folder or shard; make shards",
    }
    waiting = iter(cases.items())
    while batch := list(itertools.islice(waiting, 2)):
        processes = [start(*overrides, cwd=tmp_path) for overrides, _ in batch]
        for (overrides, words), process in zip(batch, processes, strict=True):
            done = finish(process)
            assert done.returncode == 2, (overrides, done.stderr)
            assert words in done.stderr, (overrides, done.stderr)
            assert done.stderr.count("\n") <= 3, (overrides, done.stderr)
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("__main__", "data=webdataset data.shards=no data.tokenizer=x", "data.shards=no: no such"),
        ("__main__", "data=webdataset data.shards=x.tar data.tokenizer=./no", "tokenizer=./no: no"),
        ("__main__", "data=webdataset data.shards=x.tar", "data.tokenizer is not set"),
        ("__main__", "data=webdataset data.shards=made/0.tar", "=made/tokenizer, which lies"),
        ("evaluate", "model=./no", "./no: no such folder"),
        ("show", "name=no step=1", "name=no: no run"),
        ("export", "model=./no to=x", "./no: no such folder"),
        ("embed", "model=owner/name shards=no to=x", "shards=no: no such manifest"),
        ("score", "model=owner/name shards=no to=x", "shards=no: no such manifest"),
        ("search", "index=x image=no.jpg", "image=no.jpg: cannot be read"),
        ("search", "index=no text=dog", "no: no collection.json there"),
        ("serve", "model=./no", "model=./no: no such folder"),
        ("serve", "model=o/n index=no", "no: no collection.json there"),
        ("serve", "model=o/n token_from=NO_SUCH", "token_from=NO_SUCH: this environment variable"),
        ("serve", "model=o/n port=70000", "port=70000: expected 0 to 65535"),
    ],
)
def test_what_is_not_there_is_said_before_torch_is_imported(
    module: str, arguments: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "x.tar").touch()
    (tmp_path / "made" / "tokenizer").mkdir(parents=True)
    (tmp_path / "made" / "0.tar").touch()
    (tmp_path / "made" / "tokenizer" / "tokenizer.json").touch()
    code = (
        "import sys\n"
        f"from align_train.{module} import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    large = {'torch', 'transformers', 'lightning'}\n"
        "    print('imported:', *large.intersection(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout.endswith("imported:\n"), done.stdout[-300:]
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_command_that_is_offered_evaluators_can_compose_the_defaults_of_training() -> None:
    """Its report tells in what a run differs from them."""
    before = compose_training()
    register("evaluate", EvaluateSettings, groups=["eval"])
    assert compose_training() == before
    assert compose_command("evaluate", EvaluateSettings, "model=none", "eval=pairs").eval


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optimizer.lamb.lr", "optimizer.lr"),
        ("eval.knn_folders.train.path", "eval.knn.train.path"),
        ("trainer.cpu.devices", "trainer.devices"),
        ("loss.sigmoid.bias", "model.bias"),
        ("data.cc12m.shards", "data.shards"),
    ],
)
def test_a_key_in_the_wrong_place_is_shown_the_right_one(key: str, meant: str) -> None:
    assert f"{key}: no such setting, did you mean {meant}?" in no_such_setting(key)


def test_a_key_whose_choice_is_not_taken_is_told_the_choice() -> None:
    assert "eval.knn.k: no such setting without eval=knn;" in no_such_setting("eval.knn.k")


@cache
def _usual() -> TrainSettings:
    return compose_training()


@given(
    batch=st.integers(1, 400),
    group=st.integers(1, 96),
    chunk=st.integers(1, 96) | st.just("auto"),
    processes=st.integers(1, 6),
)
def test_what_a_wrong_norm_group_proposes_is_accepted(
    batch: int, group: int, chunk: int | Literal["auto"], processes: int
) -> None:
    settings = copy.deepcopy(_usual())
    settings.batch_size, settings.norm_group = batch * processes, group
    settings.chunk_size, settings.trainer.devices = chunk, processes
    try:
        check_split(settings)
    except UserError as error:
        if not str(error).startswith("norm_group="):
            return
        for fix in str(error).partition("; take ")[2].split(" or "):
            mended = copy.deepcopy(settings)
            for word in fix.replace(" processes", "").replace(" process", "").split():
                key, _, value = word.rpartition("=")
                if key == "data.lanes":
                    mended.data["lanes"] = int(value)
                else:
                    owner = mended if key else mended.trainer
                    setattr(owner, key or "devices", int(value))
            check_split(mended)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ""),
        (["modle=tiny"], "modle: no such setting, did you mean model?"),
        (["batch_size=100", "trainer.devices=3"], "batch_size=100 cannot be split evenly"),
        (["model.image_tower.widht=2"], "did you mean model.image_tower.width?"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: expected a number"),
    ],
)
def test_help_and_wrong_settings_wait_for_no_large_library(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    """The price of an error in settings is a second, and not the ten that torch takes to import."""
    code = (
        "import sys\n"
        "from align_train.__main__ import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    large = {'torch', 'transformers', 'lightning', 'timm', 'wandb', 'numpy'}\n"
        "    print('imported:', *large.intersection(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("imported:\n"), done.stdout[-300:]
    assert words in done.stderr
