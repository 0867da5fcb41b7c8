"""Files of a repository of the hub: listed at one commit, and fetched of that commit into huggingface_hub's own cache.

    $HF_HOME/hub/models--OWNER--NAME/snapshots/COMMIT/...

Mirrors, tokens, offline mode and progress bars are those of huggingface_hub, by its own environment variables.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from skipdit.files import write_text
from skipdit.hub.errors import EscapingNameError
from skipdit.hub.failures import GoneError, Host, absent, explained, first_line, offline, stopped
from skipdit.hub.plans import Plan, Remote
from skipdit.hub.records import read_record, record_path, size_of
from skipdit.hub.registry import Hub, Published, check_relative


def host(model: Published) -> Host:
    """huggingface_hub goes on within a file while it runs, but keeps no part of one when it gives up (2.4)."""
    return Host(
        model=model.name,
        address=model.source.address,
        access="run `hf auth login`, and accept the licence on its page there",
        network="check the network, or HF_ENDPOINT",
        again="keeps whole files and fetches the rest",
        variables="HF_HOME to a folder of yours",
    )


def plan(model: Published) -> Plan:
    """The files of the commit on record, or of the newest, as the hub lists them; offline those in the cache."""
    commit, files = kept_files(model) if offline() else listed_files(model)
    return Plan(model, tuple(files), Path(constants.HF_HUB_CACHE), commit)


def pinned(model: Published) -> str:
    """The commit on record, "" before the first download."""
    record = read_record(model)
    return "" if record is None else record.commit


def listed_files(model: Published) -> tuple[str, list[Remote]]:
    source = model.source
    commit, listed = listing(model)
    files = [item for item in listed if isinstance(item, RepoFile) and source.wants(item.path)]
    if lacking := source.unmatched([item.path for item in files]):
        raise GoneError(
            f"{source.address} has no {', '.join(lacking)} (any more): it was renamed or removed; look at that page"
        )
    return commit, [
        Remote(
            name=check_inside(item.path, source),
            size=item.size,
            begun=item.size if is_cached(source, item.path, commit) else 0,
            sha256=None if item.lfs is None else item.lfs.sha256,
        )
        for item in files
    ]


def listing(model: Published) -> tuple[str, list]:
    """A commit, and all that it holds."""
    source, known = model.source, pinned(model)
    try:
        with explained(host(model)):
            commit = HfApi().model_info(source.repo, revision=known or source.revision).sha
            return commit, list(HfApi().list_repo_tree(source.repo, recursive=True, revision=commit))
    except GoneError as error:
        hint = f"; or remove {record_path(model)}, which is of commit {known[:12]}, to take what is there now"
        raise GoneError(f"{error}{hint if known else ''}") from None


def is_cached(source: Hub, name: str, commit: str) -> bool:
    return isinstance(try_to_load_from_cache(source.repo, name, revision=commit), str)


def kept_files(model: Published) -> tuple[str, list[Remote]]:
    """What the cache of the hub holds of a model, all of it or OfflineError."""
    source = model.source
    with explained(host(model)):
        root = snapshot(source, pinned(model) or source.revision, source.files, but=source.unwanted)
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
    names = [name for name in names if source.wants(name)]
    if source.unmatched(names):
        raise absent(model.name)
    return root.name, [Remote(name, size_of(root / name), begun=size_of(root / name)) for name in names]


def snapshot(source: Hub, revision: str, patterns: Sequence[str], *, but: Sequence[str] = ()) -> Path:
    """The folder of a commit, its files downloaded where they are missing."""
    return Path(
        snapshot_download(
            source.repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(but),
            local_files_only=offline(),
        )
    )  # fmt: skip


def check_inside(name: str, source: Hub) -> str:
    try:
        return check_relative(name, source.repo)
    except ValueError as error:
        raise EscapingNameError(f"{error}: nothing was downloaded") from None


def fetch(todo: Plan, *, progress: bool) -> Path:
    """Download the files of a plan, those of its commit; returns the folder that they lie in."""
    source, names = todo.model.source, [escape(file.name) for file in todo.files]
    with explained(host(todo.model)), bars(progress):
        try:
            root = snapshot(source, todo.commit, names)
        except RuntimeError as error:  # hf_xet's, of whatever breaks in a transfer
            raise stopped(host(todo.model), first_line(error)) from None
        if not offline() and not pinned(todo.model):
            refer(root, source.revision)
    return root


def refer(root: Path, revision: str) -> None:
    """Note which commit a revision is, as huggingface_hub does, so that other programs find it offline."""
    reference = root.parents[1] / "refs" / revision
    with suppress(OSError):  # a cache that others own serves all the same
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_text(reference, root.name)


@contextmanager
def bars(progress: bool) -> Iterator[None]:
    """Without the progress bars of huggingface_hub, where none are wanted."""
    shown = not progress and not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
