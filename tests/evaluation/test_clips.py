"""Clips drawn by class and by caption, with tiny models of random weights, and the table that is made of them."""

import json
from functools import cache

import pytest
import torch
from diffusers import LattePipeline

from benchmarks.digits import markdown, measure, measure_real, ways
from skipdit import SkipCacheConfig
from skipdit.data.moving_digits import CAPTIONS, PHRASINGS
from skipdit.data.text import minilm
from skipdit.evaluation.clips import AT_ONCE, captions, draw_clips
from skipdit.evaluation.compare import Way
from skipdit.evaluation.reading import ClipReader
from skipdit.evaluation.section import write_section
from skipdit.pipelines import PixelAutoencoder
from skipdit.pipelines.schedulers import make_scheduler
from skipdit.randomness import generator
from tests.models.subject import raising
from tests.pipelines.tiny import tiny_latte, tiny_latte_t2v, video_pipeline

UNCACHED, CACHED = Way(3), Way(3, SkipCacheConfig(interval=2))


@cache
def by_class():
    return video_pipeline(tiny_latte(num_classes=40))


@cache
def by_caption() -> LattePipeline:
    transformer = tiny_latte_t2v(caption_channels=384)
    scheduler = make_scheduler("ddim", learned_variance=True)
    return LattePipeline(*minilm(), PixelAutoencoder(latent_channels=1), transformer, scheduler)


@pytest.fixture(params=["class", "caption"])
def kind(request):
    """A pipeline, and what it is told of class ids."""
    return {"class": (by_class, list), "caption": (by_caption, captions)}[request.param]


@pytest.fixture
def pipeline(kind):
    return kind[0]()


@pytest.fixture
def drawing(kind, pipeline):
    def drawn(class_ids, way=UNCACHED, *, seed=0):
        return draw_clips(pipeline, kind[1](class_ids), way, guidance_scale=1.5, seed=seed)

    return drawn


def test_clips_are_what_the_reader_takes(drawing):
    clips = drawing([3, 3, 9])
    assert clips.shape == (3, 3, 1, 8, 8)
    assert clips.dtype == torch.float32
    assert -1 <= clips.min() < 0 < clips.max() <= 1
    assert len(clips.flatten(1).unique(dim=0)) == 3


def test_a_clip_depends_on_its_class_its_place_and_the_seed_alone(drawing):
    clips = drawing([3, 3, 9])
    torch.testing.assert_close(drawing([3, 7])[:1], clips[:1], rtol=0, atol=1e-4)
    assert (drawing([7, 3, 9])[0] - clips[0]).abs().max() > 1e-3
    assert (drawing([3, 3, 9], seed=1) - clips).abs().max() > 1e-3


def test_a_cache_is_on_while_it_draws_and_off_afterwards(drawing, pipeline):
    before = drawing([3, 9])
    assert (drawing([3, 9], CACHED) - before).abs().max() > 1e-4
    assert not pipeline.transformer.is_cache_enabled
    assert torch.equal(drawing([3, 9]), before)


def test_a_cache_is_off_after_an_error(drawing, pipeline):
    first = next(pipeline.transformer.children())
    with raising(first, RuntimeError("out of memory")), pytest.raises(RuntimeError, match="out of memory"):
        drawing([3], CACHED)
    assert not pipeline.transformer.is_cache_enabled


def test_more_clips_than_one_call_takes_come_out_in_order():
    class_ids = [index % 40 for index in range(AT_ONCE + 3)]
    clips = draw_clips(by_class(), class_ids, UNCACHED, guidance_scale=1.5)
    noise = [generator(0, index) for index in range(AT_ONCE, AT_ONCE + 3)]
    last = by_class()(
        class_ids[AT_ONCE:], guidance_scale=1.5, num_inference_steps=3, generator=noise, output_type="pt"
    ).frames
    assert torch.equal(clips[AT_ONCE:], 2 * last - 1)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_a_clip_by_caption_is_that_of_the_pipeline_asked_for_one_prompt(guidance_scale):
    prompts = captions([0, 39])
    clips = draw_clips(by_caption(), prompts, UNCACHED, guidance_scale=guidance_scale)
    for index, prompt in enumerate(prompts):
        asked = by_caption()(
            prompt, guidance_scale=guidance_scale, num_inference_steps=3, video_length=3, height=8, width=8,
            generator=generator(0, index), output_type="pt", clean_caption=False,
        ).frames  # fmt: skip
        torch.testing.assert_close(clips[index], 2 * asked[0, :, :1] - 1, rtol=0, atol=1e-4)


def test_captions_are_of_their_classes_and_say_it_in_every_way():
    places = [CAPTIONS.index(text) for text in captions(range(40))]
    assert [place // len(PHRASINGS) for place in places] == list(range(40))
    assert torch.tensor(places).remainder(len(PHRASINGS)).bincount().tolist() == [10] * 4
    assert len(set(captions([7, 7, 7]))) == 1


class TestTheTable:
    @pytest.fixture
    def reader(self) -> ClipReader:
        return ClipReader().eval()

    def test_has_a_row_for_each_way(self, kind, pipeline, reader):
        labels = [0, 0, 21]
        rows = measure(pipeline, kind[1](labels), reader, labels, steps=3, guidance_scale=1.5, seed=0)
        assert list(rows) == list(ways(3))
        assert [(row["full"], row["cached"]) for row in rows.values()] == [(3, 0), (2, 1)]
        assert all(0 <= row["both"] <= min(row["digit"], row["direction"]) <= 1 for row in rows.values())
        json.dumps(rows, allow_nan=False)

    def test_says_shares_in_percent(self):
        shares = {"direction": 1.0, "digit": 0.975, "both": 0.975}
        record = {
            "settings": {"clips": 200, "steps": 50, "guidance": 2.0, "seed": 0}, "date": "2026-01-01",
            "machine": {"platform": "x86_64", "torch": "2.13.0"}, "real": shares,
            "models": {"one": {"uncached": {"full": 50, "cached": 0} | shares}},
        }  # fmt: skip
        caption, _, *lines = markdown(record).splitlines()
        assert caption.startswith("Percent of clips. 200 clips a row, 50 DDIM steps, guidance 2.0, seed 0;")
        assert lines[2:] == [
            "| real clips, held out | - | - | 100.0 | 97.5 | 97.5 |",
            "| `one` | uncached | 50 / 0 | 100.0 | 97.5 | 97.5 |",
        ]

    def test_reads_real_clips_too(self, reader):
        assert measure_real(reader, 3).keys() == {"digit", "direction", "both"}


class TestASection:
    def test_is_replaced_and_the_page_around_it_stays(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text("a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\n")
        write_section(page, "one", "new\nlines")
        write_section(page, "two", "more")
        written = "a\n<!-- one -->\nnew\nlines\n<!-- end -->\nb\n<!-- two -->\nmore\n<!-- end -->\n"
        assert page.read_text() == written
        write_section(page, "one", "new\nlines")
        assert page.read_text() == written

    @pytest.mark.parametrize("text", ["", "<!-- one -->", "<!-- end --> <!-- one -->", 2 * "<!-- one --><!-- end -->"])
    def test_that_is_not_marked_is_refused_and_the_page_stays(self, tmp_path, text):
        page = tmp_path / "page.md"
        page.write_text(text)
        with pytest.raises(ValueError, match="must have one line <!-- one -->"):
            write_section(page, "one", "new")
        assert page.read_text() == text
