"""A model or a pipeline -> a repository on the hub, with a page that says what it is and what was measured of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import CommitInfo, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from skipdit.files import write_text
from skipdit.hub.card import card, read_numbers
from skipdit.hub.load import empty_model, is_pipeline, read_config
from skipdit.hub.original import first_line
from skipdit.models.base import LongSkipModel

PAGE = "README.md"
ORIGINS = ("_name_or_path", "name_or_path")  # as diffusers and transformers write it


class PublishError(RuntimeError):
    """A repository that does not take what is sent."""


def push_to_hub(
    source: LongSkipModel | DiffusionPipeline | Path | str,
    repo_id: str,
    *,
    numbers: Path | str | None = None,
    numbers_of: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    api: HfApi | None = None,
) -> CommitInfo:
    """Upload a model, a pipeline around one or the folder of either, with a page (`skipdit.hub.card`) as README.md.

    A page that is there, in the folder or else in the repository, is kept where nothing is given that it would have to
    say. The page written for a folder lies in it afterwards, so that it can be completed by hand and sent again.
    The methods `push_to_hub` of our models and pipelines do the same; that of diffusers' own pipelines (LattePipeline,
    HunyuanDiTPipeline) sends a page that says next to nothing, or keeps the repository's.

    Args:
        repo_id: "you/name", or "name" alone in your account; the repository is made where there is none.
        numbers: JSON file that `skipdit bench` or a script of benchmarks/ wrote; without, the page says that none were
            measured.
        numbers_of: which model of that file, where it has several.
        licence: as the hub abbreviates it, "apache-2.0".
        base_model: repository on the hub from whose weights these were made.
        private: of a new repository; one that is there must be so already. Left out, the account decides.
        commit_message: "Upload" and the name of the class where it is left out.
        create_pr: open a pull request, in the place of a commit.
        api: another endpoint or token than the machine's own.

    Raises:
        ValueError: a folder that holds neither, numbers that are no record, or a page in the folder that would be lost.
        PublishError: no login, no right to write, no connection, or a public repository for private weights, or the
            other way round.
    """
    api = HfApi() if api is None else api
    told = {"numbers": numbers, "numbers_of": numbers_of, "licence": licence, "base_model": base_model}
    given = [name for name, value in told.items() if value is not None]
    if numbers_of is not None and numbers is None:
        raise ValueError(f"numbers_of is {numbers_of!r}, but numbers are missing: name their file, or leave it out")
    with folder_of(source) as folder:
        page = folder / PAGE
        if page.exists() and given:
            raise ValueError(f"{page} would be replaced: move it away, or leave {', '.join(given)} out")
        kept = page.exists()
        if not kept:
            page_of(folder, repo_id, **told)  # what it cannot say is better known before anything is sent
        with explained(repo_id):
            repo_id = open_repository(api, repo_id, private=private)
            kept = kept or not given and api.file_exists(repo_id, PAGE)
        message = f"Upload {class_name(folder)}" if commit_message is None else commit_message
        with nullcontext() if kept else written(page_of(folder, repo_id, **told), page), explained(repo_id):
            return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, create_pr=create_pr)


@contextmanager
def written(made: ModelCard, page: Path) -> Iterator[None]:
    """A page in its folder, which stays there if all goes well; if not, the same call can be made again."""
    try:
        made.save(page)
        yield
    except BaseException:
        page.unlink(missing_ok=True)
        raise


def check_honoured(*, safe_serialization: bool, variant: str | None, subfolder: str | None) -> None:
    """ValueError for an argument of diffusers' method that a repository with our page cannot have."""
    faults = {
        f"safe_serialization is {safe_serialization}: pickled weights are refused wherever they are loaded": (
            not safe_serialization
        ),
        f"variant is {variant!r}: the model card loads files without one": variant is not None,
        f"subfolder is {subfolder!r}: the model card is of a whole repository": subfolder is not None,
    }
    for fault, is_so in faults.items():
        if is_so:
            raise ValueError(f"{fault}; leave it out, or save a folder and send it with `hf upload`")


@contextmanager
def folder_of(source: LongSkipModel | DiffusionPipeline | Path | str) -> Iterator[Path]:
    """The folder itself, or a passing one for what is in memory."""
    if isinstance(source, Path | str):
        yield Path(source)
        return
    with TemporaryDirectory() as folder:
        source.save_pretrained(folder)
        for config in [*Path(folder).rglob("*config.json"), *Path(folder).glob("model_index.json")]:
            forget_origin(config)
        yield Path(folder)


def forget_origin(config: Path) -> None:
    """Leave out where a part was loaded from, which is a path of this machine more often than not."""
    held = json.loads(config.read_text(encoding="utf-8"))
    told = {name: value for name, value in held.items() if name not in ORIGINS}
    if told != held:
        write_text(config, json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def page_of(
    folder: Path, repo_id: str, *, numbers: Path | str | None, numbers_of: str | None, licence: str | None,
    base_model: str | None,
) -> ModelCard:  # fmt: skip
    """The page of what lies in a folder; needs no weights."""
    with torch.device("meta"):
        model = empty_model(str(folder.resolve()))
    pipeline = class_name(folder) if is_pipeline(folder) else None
    record = None if numbers is None else read_numbers(numbers, of=numbers_of)
    return card(
        model, repo_id, pipeline=pipeline, vae_scale=vae_scale(folder), numbers=record, licence=licence,
        base_model=base_model,
    )  # fmt: skip


def vae_scale(folder: Path) -> int:
    """Pixels to a latent, on each side; 1 without an autoencoder."""
    if not (folder / "vae" / "config.json").exists():
        return 1
    return 2 ** (len(read_config(folder / "vae")["block_out_channels"]) - 1)


def class_name(folder: Path) -> str:
    return read_config(folder, "model_index.json" if is_pipeline(folder) else "config.json")["_class_name"]


def open_repository(api: HfApi, repo_id: str, *, private: bool | None) -> str:
    """Make it where there is none; returns its full name. The hub leaves one that is there as public as it is."""
    made = api.create_repo(repo_id, private=private, exist_ok=True)
    repo_id = repo_id if "/" in repo_id else made.repo_id
    if private is not None and api.repo_info(repo_id).private != private:
        found, wanted = ("public", "private") if private else ("private", "public")
        raise PublishError(f"{repo_id} is {found}: make it {wanted} on its page, or take another name")
    return repo_id


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """What huggingface_hub and its HTTP library raise, in one line that says what to do; bugs stay bugs."""
    try:
        yield
    except HfHubHTTPError as error:
        raise PublishError(refused(repo_id, error)) from None
    except (OSError, HTTPError, RuntimeError) as error:
        if not is_of_connection(error):
            raise
        raise PublishError(f"{repo_id} cannot be reached ({first_line(error)}): try again when it can") from None


def is_of_connection(error: Exception) -> bool:
    """Whether it tells of a broken connection, offline mode among it, and not of a file, a refusal of ours or a bug."""
    if isinstance(error, RuntimeError):
        return type(error) is RuntimeError  # which hf_xet raises
    return not isinstance(error, OSError) or error.filename is None


def refused(repo_id: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"{repo_id} takes nothing without a login (401): run `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"{repo_id} is not yours to write to (403): run `hf auth login` with a token that may"
    return f"{repo_id} was not written ({first_line(error)}): see its page, then try again"
