"""What lands in a repository: the files, and a page whose numbers are those of the record and no others."""

import base64
import inspect
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from diffusers.utils import PushToHubMixin
from huggingface_hub import HfApi, ModelCard, constants

from skipdit import DiT
from skipdit.hub.card import card, read_numbers
from skipdit.hub.errors import CheckpointError
from skipdit.hub.publish import PublishError, explained, push_to_hub
from skipdit.pipelines import PixelAutoencoder
from tests.pipelines.test_folders import FOLDERS
from tests.pipelines.tiny import latents_of, pipeline, tiny, tiny_latte, tiny_latte_t2v, video_pipeline

WEIGHTS = Path(__file__).parents[2] / "weights"
REPO = "somebody/tiny-skip"


class Hub(ThreadingHTTPServer):
    """The part of the hub's interface that an upload calls, on loopback; it keeps what it is sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Calls)
        self.files, self.repositories, self.tokens, self.status = {}, {}, set(), 200
        self.refusals = 0  # of uploads to come
        self.messages, self.pull_requests = [], 0  # of commits; of those that were asked for, as nobody may open one
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def page(self) -> str:
        return self.files["README.md"].decode()

    @property
    def header(self) -> dict:
        return yaml.safe_load(self.page.split("---\n")[1])


class Calls(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, value, status=200, **headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.status != 200:
            self.answer({"error": "no"}, self.server.status)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or 'somebody'}/{asked['name']}"
            made = self.server.repositories.setdefault(name, asked.get("visibility") == "private")
            self.answer({"url": f"{self.server.url}/{name}", "private": made})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.server.refusals and self.path.startswith(f"/api/models/{REPO}/preupload/main"):
            self.server.refusals -= 1
            self.answer({"error": "not now"}, 400)
        elif self.path.startswith(f"/api/models/{REPO}/preupload/main"):
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif self.path.endswith(("/discussions", "?create_pr=1")):  # with hf_xet, and without
            self.server.pull_requests += 1
            self.answer({"error": "no"}, 403)
        else:
            assert self.path.startswith(f"/api/models/{REPO}/commit/main")
            self.keep([json.loads(line) for line in body.splitlines()])
            self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/{REPO}/commit/0"})

    def keep(self, lines):
        for line in lines:
            if line["key"] == "header":
                self.server.messages.append(line["value"]["summary"])
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])

    def do_GET(self):
        if self.server.status != 200:
            self.answer({"error": "no"}, self.server.status)
        else:
            self.answer({"id": REPO, "private": self.server.repositories[REPO], "sha": "0" * 40, "siblings": []})

    def do_HEAD(self):
        if self.path.rpartition("/")[2] in self.server.files:
            self.answer({}, X_Repo_Commit="0" * 40, ETag='"0"')
        else:
            self.answer({}, 404, X_Error_Code="EntryNotFound")


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def push(hub: Hub, source, **given):
    return push_to_hub(source, REPO, api=HfApi(endpoint=hub.url, token="x"), **given)


METHODS = pytest.mark.parametrize("make", [tiny, tiny_latte, tiny_latte_t2v, pipeline, video_pipeline])


@pytest.fixture
def home(hub, monkeypatch):
    """The hub where everybody takes it to be."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace(constants.ENDPOINT, hub.url))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    return hub


def snippet(page: str, folder: Path) -> str:
    """The code of a page, about a folder on this machine."""
    (code,) = re.findall("```python\n(.*?)```", page, re.DOTALL)
    return code.replace(REPO, str(folder))


def written(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# What lands there.


def test_a_model_lands_whole_with_a_page(hub, tmp_path):
    model = tiny()
    push(hub, model, licence="apache-2.0")
    again = DiT.from_pretrained(written(hub.files, tmp_path / "got"))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert hub.files.keys() == {"README.md", "config.json", "diffusion_pytorch_model.safetensors"}
    assert hub.tokens == {"Bearer x"}


def test_a_pipeline_lands_whole_and_draws_the_same(hub, tmp_path):
    pipe = pipeline(vae=PixelAutoencoder(latent_channels=1))
    push(hub, pipe)
    again = DiffusionPipeline.from_pretrained(written(hub.files, tmp_path / "got"))
    again.set_progress_bar_config(disable=True)
    assert torch.equal(latents_of(again), latents_of(pipe))


def test_the_header_says_library_task_licence_and_base(hub):
    push(hub, tiny(), licence="mit", base_model="facebook/DiT-XL-2-256")
    header = hub.header
    assert header["library_name"] == "diffusers"
    assert header["pipeline_tag"] == "unconditional-image-generation"
    assert (header["license"], header["base_model"]) == ("mit", "facebook/DiT-XL-2-256")
    assert header["tags"] == ["skip-dit", "skip-cache", "class-to-image"]
    assert "model-index" not in header


def test_nothing_is_said_that_nobody_told(hub):
    push(hub, tiny())
    assert not {"license", "base_model", "model-index"} & hub.header.keys()
    assert "No numbers were measured" in hub.page


@pytest.mark.parametrize(("make", "tag"), [(tiny, "class-to-image"), (tiny_latte, "class-to-video"),
                                           (tiny_latte_t2v, "text-to-video")])  # fmt: skip
def test_the_page_says_what_the_config_says(make, tag):
    model = make(num_skips=1)
    page = str(card(model, REPO))
    for line in ("| layers | 4 |", "| long skips | 1, fused by 'replace' |", f"| task | {tag} |"):
        assert line in page
    assert f"| parameters | {sum(p.numel() for p in model.parameters()):,} |" in page
    assert "| long skips | none |" in str(card(make(num_skips=0), REPO))


@pytest.mark.parametrize("name", FOLDERS)
def test_the_snippet_of_a_pipeline_runs(hub, tmp_path, name):
    FOLDERS[name][0](tmp_path).save_pretrained(tmp_path / "saved")
    push(hub, tmp_path / "saved")
    ran = {}
    exec(snippet(hub.page, tmp_path / "saved"), ran)
    assert ran["pipeline"].transformer.cache_stats()["default"].cached == 25
    assert ran.get("image") or len(ran["frames"]) == 3


@pytest.mark.parametrize("make", [tiny, tiny_latte])
def test_the_snippet_of_a_model_of_pixels_runs(hub, tmp_path, make):
    make().save_pretrained(tmp_path)
    push(hub, tmp_path)
    ran = {}
    exec(snippet(hub.page, tmp_path), ran)
    assert ran["pipeline"].transformer.cache_stats()["default"].cached == 25


@pytest.mark.parametrize("name", ["text to video", "text to image"])
def test_the_snippet_of_a_text_model_takes_its_other_parts_from_the_base(tmp_path, name):
    pipe = FOLDERS[name][0](tmp_path)
    pipe.save_pretrained(tmp_path / "saved")
    page = str(card(pipe.transformer, REPO, base_model=str(tmp_path / "saved")))
    code = snippet(page, tmp_path / "saved" / "transformer").rstrip()
    ran = {}
    exec(code[: code.rindex("\n")], ran)  # all but the drawing, which is at the size of a published autoencoder
    assert ran["pipeline"].transformer is ran["model"]
    assert ran["model"].is_cache_enabled


def test_the_snippet_of_a_model_of_latents_loads_it_and_says_what_is_missing(tmp_path):
    tiny(in_channels=4).save_pretrained(tmp_path)
    page = str(card(DiT.from_pretrained(tmp_path), REPO))
    ran = {}
    exec(snippet(page, tmp_path), ran)
    assert ran["model"].is_cache_enabled
    assert "`transformer` of a `ClassToImagePipeline`, with the autoencoder" in page


@pytest.mark.parametrize("name", ["images", "text to image"])
def test_no_file_says_where_on_the_machine_it_came_from(hub, tmp_path, name):
    FOLDERS[name][0](tmp_path).save_pretrained(tmp_path / "saved")
    push(hub, DiffusionPipeline.from_pretrained(tmp_path / "saved"))
    assert "model_index.json" in hub.files
    assert not [name for name, content in hub.files.items() if str(tmp_path).encode() in content]


def test_a_page_of_numbers_says_what_they_mean():
    page = str(card(tiny(), REPO, numbers=read_numbers(WEIGHTS / "emoji-measured.json")))
    assert "Predicted is by FLOPs. PSNR and SSIM are to what the same noise becomes uncached." in page


# The numbers.


def indexed(header: dict) -> dict[str, dict[str, float]]:
    """The numbers of a header, by way and metric."""
    (entry,) = header["model-index"]
    return {
        result["dataset"]["config"]: {metric["type"]: metric["value"] for metric in result["metrics"]}
        for result in entry["results"]
    }


def test_the_header_holds_the_numbers_of_the_record(hub):
    push(hub, tiny(), numbers=WEIGHTS / "measured.json", numbers_of="fashion-skip")
    rows = json.loads((WEIGHTS / "measured.json").read_text())["models"]["fashion-skip"]
    held = indexed(hub.header)
    assert held.keys() == rows.keys()
    for way, row in rows.items():
        expected = {name: row[name] for name in ("predicted_speedup", "measured_speedup")}
        expected["seconds"] = row["seconds"]["median"]
        expected |= {name: row["fidelity"][name] for name in ("psnr", "ssim") if row["fidelity"]}
        assert held[way] == expected


def test_the_table_is_the_record_with_machine_and_date(hub):
    push(hub, tiny(), numbers=WEIGHTS / "emoji-measured.json")
    record = json.loads((WEIGHTS / "emoji-measured.json").read_text())
    row, page = record["results"]["N=2, branch 1, hold"], hub.page
    cells = (f"{row['predicted_speedup']:.2f}x", f"{row['measured_speedup']:.2f}x", f"{row['seconds']['median']:.2f}")
    quality = (f"{row['fidelity']['psnr']:.1f}", f"{row['fidelity']['ssim']:.4f}")
    assert f"| {' | '.join(['N=2, branch 1, hold', '25 / 25', *cells, *quality])} |" in page
    assert "images 14, steps 50, guidance 3.0" in page
    threads, torch_version = record["machine"]["threads"], record["machine"]["torch"]
    assert f"x86_64 CPU, threads: {threads}, torch {torch_version}; {record['date']}." in page
    assert f"held-out real drawings {record['distance from training']['held-out real drawings']:.4g}" in page


def test_shares_of_clips_are_numbers_too():
    numbers = read_numbers(WEIGHTS / "digits-measured.json", of="captioned-digits-skip")
    rows = json.loads((WEIGHTS / "digits-measured.json").read_text())["models"]["captioned-digits-skip"]
    page = str(card(tiny_latte_t2v(), REPO, numbers=numbers))
    assert indexed(yaml.safe_load(page.split("---\n")[1])) == {
        way: {name: row[name] for name in ("digit", "direction", "both")} for way, row in rows.items()
    }
    assert "| way | full / cached | digit | direction | both |" in page


def bench_record(folder: Path, **fidelity) -> Path:
    """As `skipdit bench` writes it: paths among its settings, and no date."""
    row = {"plan": "##", "full": 2, "cached": 0, "flops": 10, "predicted_speedup": 1.0, "seconds": {"median": 0.5},
           "measured_speedup": 1.0, "bytes_remembered": 0, "fidelity": fidelity or None}  # fmt: skip
    machine = {"platform": "x86_64", "torch": "2.13.0", "threads": 2, "accelerator": "NVIDIA H100"}
    settings = {"model": str(folder / "model"), "out": str(folder / "bench.json"), "steps": 2, "seed": 0}
    path = folder / "bench.json"
    path.write_text(json.dumps({"settings": settings, "machine": machine, "results": {"uncached": row}}))
    return path


def test_no_path_of_the_machine_is_told(tmp_path):
    page = str(card(tiny(), REPO, numbers=read_numbers(bench_record(tmp_path))))
    assert str(tmp_path) not in page
    assert "bench.json" not in page
    assert "steps 2, seed 0; NVIDIA H100, torch 2.13.0; date not recorded." in page


def test_what_is_infinite_is_in_the_table_alone(tmp_path):
    numbers = read_numbers(bench_record(tmp_path, psnr="inf", ssim=1.0))
    page = str(card(tiny(), REPO, numbers=numbers))
    assert indexed(yaml.safe_load(page.split("---\n")[1]))["uncached"].keys() >= {"ssim"}
    assert "psnr" not in page.split("---\n")[1]
    assert "| inf | 1.0000 |" in page


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": {}}', '{"machine": {}, "results": {"uncached": {}}}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "numbers.json").write_text(text)
    with pytest.raises(ValueError, match=r"numbers is .*numbers\.json.*skipdit bench"):
        read_numbers(tmp_path / "numbers.json")


def test_a_missing_record_is_refused_before_anything_is_sent(hub, tmp_path):
    with pytest.raises(ValueError, match="no record of a benchmark"):
        push(hub, tiny(), numbers=tmp_path / "none.json")
    assert not hub.repositories


def test_a_record_of_several_models_takes_the_name_of_one():
    for name in (None, "tiny"):
        with pytest.raises(ValueError, match=f"numbers_of is {name!r}, but .* has fashion-skip, fashion-dit"):
            read_numbers(WEIGHTS / "measured.json", of=name)
    with pytest.raises(ValueError, match="is of one model: leave numbers_of out"):
        read_numbers(WEIGHTS / "emoji-measured.json", of="emoji-hunyuan")
    with pytest.raises(ValueError, match="numbers are missing"):
        push_to_hub(tiny(), REPO, numbers_of="tiny")


# The methods of models and pipelines.


@METHODS
def test_a_method_sends_the_card_with_the_numbers_of_the_record(home, make):
    told = {"numbers": WEIGHTS / "emoji-measured.json", "licence": "mit", "base_model": "somebody/base"}
    make().push_to_hub(REPO, token="x", **told)
    rows = json.loads((WEIGHTS / "emoji-measured.json").read_text())["results"]
    held = indexed(home.header)
    assert {way: row["measured_speedup"] for way, row in held.items()} == {
        way: row["measured_speedup"] for way, row in rows.items()
    }
    assert "| N=2, branch 1, hold | 25 / 25 |" in home.page
    assert home.tokens == {"Bearer x"}
    by_method = dict(home.files)
    push(home, make(), **told)
    assert home.files == by_method


@METHODS
def test_the_first_arguments_of_a_method_are_those_of_diffusers(make):
    ours, theirs = (inspect.signature(kind.push_to_hub).parameters.values() for kind in (make(), PushToHubMixin))
    positional = [parameter for parameter in ours if parameter.kind is not parameter.KEYWORD_ONLY]
    described = [[(p.name, p.default) for p in parameters if p.name != "self"] for parameters in (positional, theirs)]
    assert described[0] == described[1]


def test_a_method_takes_the_message_and_the_pull_request_of_diffusers(home):
    tiny().push_to_hub(REPO)
    pipeline().push_to_hub(REPO, "Better")
    with pytest.raises(PublishError, match="403"):
        tiny().push_to_hub(REPO, "Best", create_pr=True)
    assert home.messages == ["Upload DiT", "Better"]
    assert home.pull_requests == 1


def test_a_name_alone_is_in_the_account(home):
    pipeline(vae=PixelAutoencoder(latent_channels=1)).push_to_hub(REPO.partition("/")[2])
    assert home.repositories == {REPO: False}
    assert f'from_pretrained("{REPO}")' in home.page


@pytest.mark.parametrize("make", [tiny, pipeline])
@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"safe_serialization": False}, "safe_serialization is False: pickled weights are refused .* leave it out"),
        ({"variant": "fp16"}, "variant is 'fp16': the model card loads files without one; leave it out"),
        ({"subfolder": "unet"}, "subfolder is 'unet': the model card is of a whole repository; leave it out"),
    ],
)
def test_what_a_method_cannot_honour_is_an_error_before_anything_is_sent(home, make, wanted, complaint):
    with pytest.raises(ValueError, match=complaint):
        make().push_to_hub(REPO, **wanted)
    assert not home.repositories


# The page that is there.


def test_a_page_in_the_folder_is_sent_as_it_is(hub, tmp_path):
    tiny().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("By hand.")
    push(hub, tmp_path)
    assert hub.page == "By hand."


def test_a_page_in_the_folder_is_not_replaced(hub, tmp_path):
    tiny().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("By hand.")
    with pytest.raises(ValueError, match="would be replaced: move it away, or leave licence out"):
        push(hub, tmp_path, licence="mit")
    assert (tmp_path / "README.md").read_text() == "By hand."


def test_a_page_in_the_repository_stays_unless_it_would_say_more(hub):
    hub.files["README.md"] = b"By hand."
    push(hub, tiny())
    assert hub.page == "By hand."
    push(hub, tiny(), licence="mit")
    assert hub.header["license"] == "mit"


def test_a_page_lies_in_the_folder_afterwards(hub, tmp_path):
    tiny().save_pretrained(tmp_path)
    push(hub, tmp_path)
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "diffusers"


def test_what_failed_once_is_done_by_the_same_call(hub, tmp_path):
    """A page that was left behind would be one that nobody asked to keep."""
    tiny().save_pretrained(tmp_path)
    before, hub.refusals = sorted(tmp_path.iterdir()), 1
    with pytest.raises(PublishError, match="was not written .*: see its page, then try again"):
        push(hub, tmp_path, licence="mit")
    assert sorted(tmp_path.iterdir()) == before
    push(hub, tmp_path, licence="mit")
    assert hub.header["license"] == "mit"
    assert (tmp_path / "README.md").read_bytes() == hub.files["README.md"]


# What is refused.


@pytest.mark.parametrize(
    "error",
    [TypeError("a bug"), NotImplementedError("a bug"), CheckpointError("broken"), PublishError("no"),
     FileNotFoundError(2, "No such file or directory", "config.json")],
)  # fmt: skip
def test_bugs_and_files_are_no_broken_connection(error):
    with pytest.raises(type(error)) as raised, explained(REPO):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), TimeoutError(), RuntimeError("Data processing")])
def test_a_broken_connection_has_many_names(error):
    with pytest.raises(PublishError, match="cannot be reached .*: try again when it can"), explained(REPO):
        raise error


@pytest.mark.parametrize(("status", "says"), [(401, "without a login .401.: run `hf auth login`"), (403, "not yours")])
def test_a_refusal_says_in_one_line_what_to_do(hub, status, says):
    hub.status = status
    with pytest.raises(PublishError, match=says) as refusal:
        push(hub, tiny())
    assert "\n" not in str(refusal.value)


def test_no_connection_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = HfApi(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}", token="x")
        with pytest.raises(PublishError, match=f"{REPO} cannot be reached") as refusal:
            push_to_hub(tiny(), REPO, api=nobody)
    assert "\n" not in str(refusal.value)


def test_offline_says_so(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="offline mode"):
        push(hub, tiny())


def test_private_weights_do_not_go_to_a_public_repository(hub):
    push(hub, tiny(), private=True)
    assert hub.repositories[REPO]
    hub.repositories[REPO] = False
    hub.files.clear()
    with pytest.raises(PublishError, match="is public"):
        push(hub, tiny(), private=True)
    assert not hub.files


def test_weights_for_everybody_do_not_go_to_a_private_repository(hub):
    push(hub, tiny(), private=True)
    hub.files.clear()
    with pytest.raises(PublishError, match="is private: make it public"):
        push(hub, tiny(), private=False)
    assert not hub.files
    push(hub, tiny())
    assert hub.files


def test_a_folder_of_something_else_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match="model folder"):
        push(hub, tmp_path)
    assert not hub.repositories
