"""A config.json of other weights, or of no model at all: refused in one line before anything is built."""

import json
import time

import pytest

from skipdit.hub import CheckpointError
from skipdit.hub.convert import convert
from skipdit.hub.load import load_model
from tests.models.subject import Subject

UNTOLD = {"sample_size", "video_length", "num_attention_heads", "num_heads"}  # by no tensor of some model
FREE = {"dropout", "num_embeds_ada_norm", "norm_eps"}  # which change no shape
SECONDS = 5  # building what is asked for would take minutes, or all memory


def wrong_values(name, value) -> list:
    if type(value) is not int:
        return [10**9, "x", [1]]
    return [10**9, -1, "x", 2.5] if name in UNTOLD else [10**9, -1, "x", 2.5, value + 1]


class Configs(Subject):
    def test_settings_of_other_weights_are_refused_fast(self, model, tmp_path):
        """A limit of time decides only between a second and what never ends."""
        model.save_pretrained(tmp_path / "model")
        path = tmp_path / "model" / "config.json"
        config = json.loads(path.read_text())
        for name in [name for name in config if not name.startswith("_") and name not in FREE]:
            for value in wrong_values(name, config[name]):
                path.write_text(json.dumps(config | {name: value}))
                self.assert_refused(lambda: type(model).from_pretrained(tmp_path / "model"), ValueError)
                self.assert_refused(lambda: load_model(str(tmp_path / "model")), CheckpointError)
                self.assert_refused(
                    lambda: convert(tmp_path / "model", tmp_path / "out", layout="diffusers"),
                    (CheckpointError, ValueError),
                )

    def assert_refused(self, use, kind):
        before = time.monotonic()
        with pytest.raises(kind, match=r"^[^\n]{,700}$"):
            use()
        assert time.monotonic() - before < SECONDS

    @pytest.mark.parametrize("kept", [{}, {"variant": "fp16"}, {"max_shard_size": "5KB"}])
    def test_the_setting_the_value_and_the_file_are_named(self, model, tmp_path, kept):
        model.save_pretrained(tmp_path, **kept)
        path = tmp_path / "config.json"
        config = json.loads(path.read_text())
        layers = "depth" if "depth" in config else "num_layers"
        for change, message in (
            ({"in_channels": 7}, r"sets in_channels 7, which makes \w+\.proj\.weight 16x7x2x2, .* 16x4x2x2"),
            ({layers: 900}, rf"sets {layers} 900, which makes \w*blocks \d+, but in its weights"),
            ({"in_channels": 10**9}, r"sets in_channels 1000000000, more than its weights of [\d,]+ bytes hold"),
            ({"in_channels": "4"}, r": in_channels is '4': \w+ takes a whole number"),
        ):
            path.write_text(json.dumps(config | change))
            with pytest.raises(ValueError, match=f"^{path}:? ?{message}"):
                type(model).from_pretrained(tmp_path)
