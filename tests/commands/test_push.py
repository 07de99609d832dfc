"""`export push=OWNER/NAME`: all of it arrives or nothing, once, and nobody sees the token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
from huggingface_hub.repocard_data import model_index_to_eval_results

import align_train
from align_train.commands import hub_answers
from align_train.commands.push import check_push, push
from align_train.errors import UserError
from align_train.pretrained import BEGIN
from align_train.pretrained.card import END
from align_train.pretrained.card_merge import merged
from tests.support.commands import REPOSITORY, UNEVALUATED, run
from tests.support.hub_of_models import READ_TOKEN, TOKEN, Fault, ModelHub, model_hub
from tests.support.text_encoders import make_encoder

NAME = "ann/model"
LARGE = bytes(range(256)) * 4000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """A hub to which the libraries of this process are led."""
    with model_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub_answers, "_PAUSES", (0.1, 0.1))
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.safetensors").write_bytes(LARGE)
    (made / "config.json").write_text("{}")
    (made / "README.md").write_text(f"---\ntags:\n- a\n---\n\n{BEGIN}\nours\n{END}\n")
    return made


def send(folder: Path, *, private: bool = True) -> None:
    push(folder, NAME, private=private, merge=merged)


def test_a_push_arrives_in_one_private_commit_and_again_sends_nothing(
    hub: ModelHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(folder)
    repository = hub.repositories[NAME]
    assert repository.private and len(repository.commits) == 2
    assert repository.files["model.safetensors"] == LARGE
    assert hub.received == len(LARGE)
    assert "sending 3 of 3 files, 1.0 MB" in capsys.readouterr().out

    send(folder)
    assert "nothing to send, all 3 files are there" in capsys.readouterr().out
    assert len(repository.commits) == 2 and hub.received == len(LARGE)

    (folder / "config.json").write_text('{"a": 1}')
    send(folder)
    assert "sending 1 of 3 files, 0.0 MB" in capsys.readouterr().out
    assert hub.received == len(LARGE)


def test_large_files_go_in_parts_if_the_hub_wants_them_so(hub: ModelHub, folder: Path) -> None:
    hub.parts_from, hub.part = 500_000, 300_000
    send(folder)
    assert hub.kinds().count("part") == 4 and hub.received == len(LARGE)
    assert hub.repositories[NAME].files["model.safetensors"] == LARGE


def test_public_only_if_it_is_asked_for_and_what_is_there_stays(
    hub: ModelHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(folder, private=False)
    assert not hub.repositories[NAME].private
    (folder / "config.json").write_text('{"a": 1}')
    send(folder, private=True)
    assert not hub.repositories[NAME].private
    assert "ann/model: public already, and stays so" in capsys.readouterr().out


def test_what_people_wrote_into_the_card_stays(hub: ModelHub, folder: Path) -> None:
    send(folder)
    repository = hub.repositories[NAME]
    files = dict(repository.files)
    edited = files["README.md"].decode().replace(BEGIN, f"# By hand\n{BEGIN}")
    files["README.md"] = edited.replace("- a\n", "- theirs\n").encode()
    files["theirs.png"] = b"drawn"
    repository.commit(files)

    (folder / "README.md").write_text(f"---\ntags:\n- b\n---\n\n{BEGIN}\nnewer\n{END}\n")
    send(folder)
    text = repository.files["README.md"].decode()
    assert "# By hand" in text and "newer" in text and "ours" not in text
    assert "- theirs" in text and "- b" not in text
    assert repository.files["theirs.png"] == b"drawn"


def test_a_config_of_another_format_does_not_stay_beside_the_new_one(
    hub: ModelHub, folder: Path
) -> None:
    send(folder)
    (folder / "config.json").rename(folder / "config.yaml")
    send(folder)
    files = hub.repositories[NAME].files
    assert "config.yaml" in files and "config.json" not in files


@pytest.mark.parametrize("kind", ["put", "commit", "create", "paths", "batch", "validate"])
@pytest.mark.parametrize("status", [429, 504, 0])
def test_what_passes_is_waited_for_and_nothing_is_sent_twice(
    kind: str, status: int, hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    # The library's own pauses, too.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.faults = [Fault(kind, status, headers={"Retry-After": "1"})]
    send(folder)
    assert hub.repositories[NAME].files["model.safetensors"] == LARGE
    assert hub.received == len(LARGE) and len(hub.repositories[NAME].commits) == 2


def test_a_push_that_was_cut_after_its_large_file_goes_on_there(
    hub: ModelHub, folder: Path
) -> None:
    hub.faults = [Fault("commit", 504, times=3)]
    with pytest.raises(UserError, match=r"504 .*; given up after 3 attempts; give the same comm"):
        send(folder)
    assert hub.received == len(LARGE)
    assert "model.safetensors" not in hub.repositories[NAME].files
    send(folder)
    assert hub.received == len(LARGE)
    assert hub.repositories[NAME].files["model.safetensors"] == LARGE


@pytest.mark.parametrize("kind", ["commit", "create", "put"])
def test_an_answer_that_is_lost_makes_no_second_commit(
    kind: str, hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.faults = [Fault(kind, after=True)]
    send(folder)
    assert len(hub.repositories[NAME].commits) == 2
    assert hub.repositories[NAME].files["model.safetensors"] == LARGE


@pytest.mark.parametrize("status", [429, 504, 0])
def test_a_card_that_cannot_be_read_at_once_is_not_overwritten(
    status: int, hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    send(folder)
    repository = hub.repositories[NAME]
    files = dict(repository.files)
    files["README.md"] = files["README.md"].replace(BEGIN.encode(), f"By hand\n{BEGIN}".encode())
    repository.commit(files)
    (folder / "config.json").write_text('{"a": 1}')
    hub.faults = [Fault("resolve", status, times=2)]
    send(folder)
    assert b"By hand" in repository.files["README.md"]
    assert repository.files["config.json"] == b'{"a": 1}'


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, r"401 \(.*\); log in with `hf auth login`, or set HF_TOKEN"),
        (403, r"403 \(no rights …\); take a token that may write there"),
        (404, r"404 \(.*\); no such account"),
        (413, r"413 \(.*\); a file, or all of it, is beyond the hub's limit"),
    ],
)
@pytest.mark.parametrize("kind", ["put", "commit", "create", "batch"])
def test_what_is_final_is_one_line_at_once(
    kind: str, status: int, told: str, hub: ModelHub, folder: Path
) -> None:
    hub.faults = [Fault(kind, status, times=99, message=f"no rights {TOKEN}")]
    with pytest.raises(UserError, match=told) as caught:
        send(folder)
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)
    assert len([asked for asked, _ in hub.asked if asked == kind]) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model", "push=model: expected OWNER/NAME"),
        ("a/b/c", "expected OWNER/NAME"),
        ("ann/..", "expected OWNER/NAME"),
        ("ann/x.git", "expected OWNER/NAME"),
        ("ann/xé", "expected OWNER/NAME"),
        ("https://huggingface.co/ann/x", "expected OWNER/NAME"),
        ("ann/" + "x" * 99, "expected OWNER/NAME"),
    ],
)
def test_a_name_that_the_hub_cannot_have_is_refused_without_asking(
    name: str, told: str, hub: ModelHub
) -> None:
    with pytest.raises(UserError, match=told):
        check_push(name)
    assert not hub.asked


def test_a_token_that_may_not_write_is_refused_before_a_model_is_opened(
    hub: ModelHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_push(NAME)
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(UserError, match="the token may only read; take one that may write"):
        check_push(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_Unknown")
    with pytest.raises(UserError, match=r"401 \(.*; log in") as caught:
        check_push(NAME)
    assert "hf_Unknown" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_Tökén")
    with pytest.raises(UserError, match="the token has characters that no token has"):
        check_push(NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no token; log in with `hf auth login`, or set HF_TOKEN"):
        check_push(NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        check_push(NAME)


FRESH = """
import json, sys, torch, align_train
import align_train.errors
from safetensors.torch import save_file

name, to = sys.argv[1:]
try:
    model = align_train.load(name)
    texts = model.encode_text(model.tokenizer(["a red circle", "two stars"]))
except align_train.errors.UserError:
    model = align_train.load_classifier(name)
    texts = torch.zeros(1)
images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
tensors = {key: value.contiguous() for key, value in model.model.state_dict().items()}
save_file({**tensors, "their images": model.encode_image(images), "their texts": texts}, to)
"""


def environment(hub: ModelHub, cache: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    fixed = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(cache),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    return {key: value for key, value in kept.items() if key != "TRANSFORMERS_OFFLINE"} | fixed


def python(*words: str, cwd: Path, hub: ModelHub) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment(hub, cwd / "hf_home"),
        capture_output=True,
        text=True,
        check=False,
    )
    # Neither a line nor a file of the command may hold the token.
    assert TOKEN not in done.stdout + done.stderr
    for path in cwd.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    return done


def load_afresh(cwd: Path, hub: ModelHub, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    done = python("-c", FRESH, name, str(cwd / "loaded"), cwd=cwd, hub=hub)
    assert done.returncode == 0, done.stderr
    return load_file(cwd / "loaded")


def assert_loads_as(cwd: Path, hub: ModelHub, local: Path) -> None:
    """Every tensor bitwise and a forward pass: from the hub, in a fresh process, and from here."""
    import torch

    found = load_afresh(cwd, hub, NAME)
    wanted = load_afresh(cwd, hub, str(local))
    # Their format has a layer that nobody reads.
    left_over = {name for name in found.keys() - wanted.keys() if ".pooler." not in name}
    assert not left_over and wanted.keys() <= found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


EXPORT = ("-m", "align_train.export")


@pytest.mark.long
@pytest.mark.parametrize("format", ["huggingface", "align_train"])
def test_a_pushed_run_loads_by_its_name_as_it_was(
    format: str, tmp_path: Path, trained: Path
) -> None:
    with model_hub(lfs_from=50_000, parts_from=60_000, part=50_000) as hub:
        words = (*EXPORT, f"model={trained}", f"push={NAME}", f"format={format}")
        done = python(*words, cwd=tmp_path, hub=hub)
        assert done.returncode == 0, done.stderr
        assert hub.repositories[NAME].private and "part" in hub.kinds()
        assert not list(tmp_path.glob("*.safetensors"))
        assert_loads_as(tmp_path, hub, trained)

        again = python(*words, cwd=tmp_path, hub=hub)
        assert "nothing to send" in again.stdout, again.stdout + again.stderr

        # With a folder of one's own, too, before and after it is there.
        for _ in range(2):
            again = python(*words, "to=mine", cwd=tmp_path, hub=hub)
            assert "nothing to send" in again.stdout, again.stdout + again.stderr
        (tmp_path / "mine" / "config.yaml").write_text("model: {}")
        refused = python(*words, "to=mine", cwd=tmp_path, hub=hub)
        assert refused.returncode == 2 and "exists already with another export" in refused.stderr

        card = hub.repositories[NAME].files["README.md"].decode()
        assert f'("{NAME}")' in card
        if format == "huggingface":
            assert_transformers_load_it(tmp_path, hub, trained)


THEIRS = """
import sys, torch
from safetensors.torch import save_file
from transformers import AlignModel, AlignProcessor

name = sys.argv[1]
model, processor = AlignModel.from_pretrained(name), AlignProcessor.from_pretrained(name)
assert "align_train" not in sys.modules
images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
tokens = processor(text=["a red circle", "two stars"], padding=True, return_tensors="pt")
with torch.no_grad():
    result = model.eval()(pixel_values=images, **tokens)
tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
tensors |= {"their images": result.image_embeds, "their texts": result.text_embeds}
save_file(tensors, "theirs")
"""


def assert_transformers_load_it(cwd: Path, hub: ModelHub, trained: Path) -> None:
    import torch
    from safetensors.torch import load, load_file

    from align_train.pretrained.align_names import tensor_names

    done = python("-c", THEIRS, NAME, cwd=cwd, hub=hub)
    assert done.returncode == 0 and "newly initialized" not in done.stderr, done.stderr
    theirs = load_file(cwd / "theirs")
    sent = load(hub.repositories[NAME].files["model.safetensors"])
    assert all(torch.equal(theirs[name], sent[name]) for name in sent)
    ours = load_afresh(cwd, hub, str(trained))
    names = tensor_names(name for name in ours if not name.startswith("their "))
    assert all(
        torch.equal(ours[name].flatten(), theirs[to].flatten()) for name, to in names.items()
    )
    for name in ("their images", "their texts"):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=0)


@pytest.mark.long
def test_the_metadata_is_what_the_hubs_library_reads(tmp_path: Path, trained: Path) -> None:
    from huggingface_hub import ModelCard

    with model_hub() as hub:
        words = (f"model={trained}", f"push={NAME}", "private=false", "licence=apache-2.0")
        done = python(*EXPORT, *words, cwd=tmp_path, hub=hub)
        assert done.returncode == 0, done.stderr
        assert not hub.repositories[NAME].private
        data: Any = ModelCard(hub.repositories[NAME].files["README.md"].decode()).data
    assert data.license == "apache-2.0" and data.library_name == "transformers"
    assert data.pipeline_tag == "zero-shot-image-classification" and "align" in data.tags
    assert data.widget[0]["candidate_labels"]
    results = json.loads((trained / "results.json").read_text())
    figures = {result.metric_name: result.metric_value for result in data.eval_results}
    assert figures and all(
        results[name] == pytest.approx(figures[name], abs=1e-4) for name in figures
    )
    assert model_index_to_eval_results(data.to_dict()["model-index"])[0] == "model"


@pytest.mark.long
def test_a_connection_cut_at_half_and_a_refusal_are_one_line_of_the_command(
    tmp_path: Path, trained: Path
) -> None:
    with model_hub(lfs_from=50_000) as hub:
        words = (*EXPORT, f"model={trained}", f"push={NAME}")
        hub.faults = [Fault("put", 0), Fault("commit", 504)]
        done = python(*words, cwd=tmp_path, hub=hub)
        assert done.returncode == 0, done.stderr
        assert "504" in done.stderr and "trying again" in done.stderr

        hub.faults = [Fault("whoami", 401, times=9)]
        done = python(*words, cwd=tmp_path, hub=hub)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "401" in done.stderr and "hf auth login" in done.stderr


def small_other_run(kind: str, trained: Path, demo: Path, words: tuple[str, ...]) -> list[str]:
    """The settings of a run of another kind, which the small demo trains for two steps."""
    data = [word for word in words if not word.startswith("model.")]
    common = [*data, *UNEVALUATED, "max_steps=2", "name=other"]
    if kind == "lora":
        return [
            *common,
            "model=huggingface",
            f"model.path={trained}",
            "lora.image=2",
            "lora.text=2",
        ]
    if kind == "classifier":
        labels = (f"data.classes={demo}/classes.json", "data.caption=json:class")
        pairs = (f"data.shards={demo}/train", f"data.held_out={demo}/held_out")
        groups = ("batch_size=32", "norm_group=32", "chunk_size=32", "evaluate_every=0")
        probe = ("experiment=linear_probe", f"model.path={trained}", "max_steps=2", "name=other")
        return [*probe, *pairs, *labels, *groups]
    data = [*UNEVALUATED, "data=webdataset", f"data.shards={demo}/train", "data.lanes=2"]
    batch = ("data.window=64", "batch_size=8", "chunk_size=4", "norm_group=null", "precision=fp32")
    tower = ("model=by_name", "model.image_tower.name=test_vit", "model.max_tokens=32")
    sizes = ("+model.image_tower.options.img_size=32", "model.image_tower.pretrained=false")
    encoder = f"model.text_tower.name={demo.parent}/encoder"
    return [*data, *batch, *tower, *sizes, encoder, "max_steps=2", "name=other"]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "encoder", "classifier"])
def test_other_models_load_by_name_too(
    kind: str, tmp_path: Path, trained: Path, demo: Path, small_run: tuple[str, ...]
) -> None:
    if kind == "encoder":
        make_encoder(demo.parent / "encoder", "modernbert", dropout=0.1)
    run(*small_other_run(kind, trained, demo, small_run), cwd=tmp_path)
    with model_hub(lfs_from=50_000) as hub:
        local = tmp_path / "outputs" / "other"
        done = python(*EXPORT, f"model={local}", f"push={NAME}", cwd=tmp_path, hub=hub)
        assert done.returncode == 0, done.stderr
        assert_loads_as(tmp_path, hub, local)

        # Commands take the name, too.
        words = ("-m", "align_train.embed", f"model={NAME}", f"shards={demo}/held_out", "to=index")
        if kind == "lora":
            done = python(*words, cwd=tmp_path, hub=hub)
            assert done.returncode == 0, done.stderr


def test_load_says_where_a_name_was_looked_for(hub: ModelHub) -> None:
    with pytest.raises(UserError, match="neither a folder here nor reachable on the Hugging Face"):
        align_train.load("ann/none")


@pytest.mark.parametrize("weights", [True, False])
def test_a_name_brings_the_files_of_our_own_format(
    weights: bool, hub: ModelHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align_train.model.weights import find

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (folder / "config.yaml").write_text("model: {}")
    send(folder)
    assert (find(NAME, wanted="a model", weights=weights) / "config.yaml").is_file()
