"""The folder of the embedded text-to-image model: its scheduler is the one that it is loaded with."""

from diffusers import DDPMScheduler

from skipdit.hub.load import load_pipeline
from skipdit.recipes.emoji_pipeline import Assembly, assemble
from skipdit.training import HunyuanDiTArchitecture


def test_the_saved_scheduler_is_the_one_that_the_folder_loads_with(tmp_path):
    tiny = HunyuanDiTArchitecture(patch_size=16, num_attention_heads=2, attention_head_dim=8, num_layers=4, num_skips=1)
    tiny.build().save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "loss.csv").write_text("step,loss\n")
    out = tmp_path / "out"
    for _ in range(2):  # over itself too
        assemble(Assembly(model=tmp_path / "run" / "model", out=out))
    saved, loaded = DDPMScheduler.from_pretrained(out / "scheduler").config, load_pipeline(str(out)).scheduler.config
    assert {k: v for k, v in saved.items() if k[0] != "_"} == {k: v for k, v in loaded.items() if k[0] != "_"}
    assert (out / "loss.csv").read_text() == "step,loss\n"
    assert not [path for path in out.rglob("*.json") if str(tmp_path) in path.read_text()]  # no path of this machine
