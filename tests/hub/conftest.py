"""What tests of downloads share."""

import json

import pytest
from huggingface_hub import constants

from skipdit.hub import registry
from tests.hub.downloads import DATA, FOLDER, entries
from tests.hub.loopback import serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, as the endpoint of the hub and in a registry of three; caches are empty."""
    with serving() as server:
        (tmp_path / "registry.json").write_text(json.dumps(entries(server.url)))
        monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("SKIPDIT_CACHE", raising=False)
        server.files["web.pt"] = DATA
        server.repos |= {"someone/tiny": {"tiny.pt": DATA, "other.pt": b"other"}, "someone/folder": dict(FOLDER)}
        yield server
