"""A registry of three on a server of loopback: a file of no repository that needs a file of one, and a folder."""

from pathlib import Path

from skipdit.hub import registry
from skipdit.hub.fetching import download
from skipdit.hub.records import record_path

DATA = bytes(range(256)) * 4096  # 1 MiB
OTHER = DATA[::-1]
COMMON = {"task": "part", "bytes": len(DATA), "bytes_from": "computed", "licence": "none", "format": "original"}
FOLDER = {"model_index.json": b"{}", "vae/config.json": b"{}", "vae/model.safetensors": DATA, "vae/model.bin": b"no"}
WANTED = FOLDER.keys() - {"vae/model.bin"}


def entries(url: str) -> dict:
    one = {"repo": "someone/tiny", "files": ["tiny.pt"], "path": "tiny.pt"}
    folder = {"repo": "someone/folder", "files": ["model_index.json", "vae/config.json", "vae/*.safetensors*"]}
    return {
        "web": {"title": "a file", "source": {"url": f"{url}/files/web.pt"}, "parts": {"vae": "hub"}, **COMMON},
        "hub": {"title": "a file", "source": one, **COMMON},
        "folder": {"title": "a folder", "source": folder, **COMMON},
    }


def fetch(name: str, **more) -> Path:
    return download(name, progress=False, **more)[name]


def record_of(name: str) -> Path:
    return record_path(registry.published(name))


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
