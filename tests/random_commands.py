"""Random command lines, biased to valid ones: each succeeds, or says in one line of ours what is wrong.

    python -m tests.random_commands [--count 300] [--seed 0]

They run in this process, in a folder of tiny models, checkpoints, prompts and broken files. A line fails the test where
an error is of a kind that only a bug raises, comes from inside a library, or does not fit on a line.
"""

import argparse
import os
import random
import shlex
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from huggingface_hub import constants

import skipdit
from skipdit.cli import main
from tests.hub.test_load_video import reader_of_minilm
from tests.pipelines.tiny import hunyuan_pipeline, pipeline, tiny, tiny_latte, tiny_stock_hunyuan, tiny_vae

SOURCE = Path(skipdit.__file__).parent
OURS = (ValueError, FloatingPointError, RuntimeError)  # where our own code raises them; an OSError may come from below
NUMBERED = 100  # folders of samples; a line may come to one that holds others
ODD = 0.07  # share of values that are odd
LONGEST = 1200  # characters of an error; some list names

Values = tuple[Sequence[str], Sequence[str]]  # usual ones, odd ones

NUMBERS = ("0", "-1", "1.5", "x", "1e9", "nan", "", "None")
CLASS_MODELS = ("dit", "dit", "fashion-skip", "dit.pt", "pipe", "latent --vae vae")
CLIP_MODELS = ("latte", "unconditional")
TEXT_MODELS = ("t2v", "hunyuan", "hunyuan/transformer --base hunyuan")
BAD_MODELS = ("nothing", "broken.pt", "broken", "empty", "dit-xl-2-256", "", "..", "prompts.txt", "vae", "fashion-ski",
              "facebook/DiT-XL-2-256", "other.safetensors", "huge")  # fmt: skip

CACHE: dict[str, Values] = {
    "--cache.interval": (("2", "3"), NUMBERS),
    "--cache.branch": (("0", "1", "2"), ("9", *NUMBERS)),
    "--cache.preset": (("model", "high", "balanced", "fast", "class-to-image"), ("text-to-image", "best", "")),
    "--cache.published": (("N2-700-50",), ("N0", "2-700-50", "N2-50-700", "")),
    "--cache.window": (("50 700",), ("700 50", "x y", "5")),
    "--cache.steps": (("0,1",), ("1,0", "0,99", "x", "", "0,0")),
    "--cache.forecast": (("hold", "taylor", "residual"), ("best", "os:system", "x:y")),
    "--cache.order": (("1", "2"), NUMBERS),
    "--cache.retention": (("1",), NUMBERS),
    "--cache.max-cached": (("1",), NUMBERS),
    "--cache.threshold": (("0.1",), NUMBERS),
    "--cache.schedule": ((), ("x", "os:path", ":")),
    "--cache": (("",), ("N2-700-50", "7")),
}
CACHES = (
    "--cache", "--cache N2-700-50", "--deepcache", "--cache-step 2", "--cache.interval 2", "--cache.interval 1",
    "--cache.interval 3 --cache.branch 0", "--cache.preset balanced", "--cache.preset fast", "--cache.threshold 0.1",
    "--cache.interval 2 --cache.forecast taylor --cache.order 1", "--cache.interval 2 --cache.forecast residual",
    "--cache.interval 2 --cache.window 50 700", "--cache.interval 2 --cache.retention 1", "--cache.steps 0",
    "--cache.threshold 0.1 --cache.max-cached 1",
)  # fmt: skip
DRAW: dict[str, Values] = {
    "--seed": (("0", "3"), NUMBERS),
    "--scheduler": (("ddpm", "ddim", "dpm++", "unipc", "euler", "heun", "euler-a", "dpm++-sde"), ("best", "", "DDIM")),
    "--guidance-scale": (("1", "2", "4.5"), ("-1", "x", "nan", "inf", "")),
    "--guidance-channels": (("1", "all"), ("9", "0", "x", "-1")),
    "--dtype": (("float32", "bfloat16"), ("int8", "half")),
    "--device": (("cpu",), ("cuda", "gpu", "", "cpu:9")),
    "--weights": ((), ("ema", "nothing")),
    "--beta-end": ((), ("0.02", "0", "2", "x", "nan")),
    "--vae": ((), ("nothing", "dit", "vae", "sd-vae-ft-mse", "hunyuandit-v1.2")),
    "--base": ((), ("nothing", "dit", "hunyuan", "latte-base")),
}
SAMPLE: dict[str, Values] = DRAW | {
    "--num-images": (("1", "2", "3"), NUMBERS),
    "--class-order": (("turn", "random"), ("up",)),
    "--size": (("16 8", "24 24"), ("7 7", "0 8", "8", "-8 8", "x y")),
    "--batch-size": (("1", "2", "16"), NUMBERS),
    "--shard": (("0/2", "1/2"), ("2/2", "x", "0/0", "-1/2")),
    "--layout": ((), ("plain", "vbench", "other")),
    "--original-size": ((), ("64 64", "0 0", "x")),
    "--lora": ((), ("nothing", "dit", "prompts.txt")),
    "--lora-scale": ((), ("2", "nan")),
    "--vae-slicing": ((), ("",)),
    "--vae-tiling": ((), ("",)),
    "--tf32": ((), ("",)),
    "--offload": (("none",), ("model", "group", "sequential", "x")),
    "--negative-prompt": ((), ("dog", "")),
    "--num-per-prompt": ((), ("2", "0")),
    "--cfg-scale": ((), ("4",)),
    "--nothing": ((), ("1",)),
    "--help": ((), ("",)),
}
CLIPS: dict[str, Values] = {
    "--frames": (("1", "2", "3"), ("4", *NUMBERS)),
    "--fps": (("8", "12.5"), ("0", "-1", "x", "nan", "1e9")),
    "--format": (("webp", "gif", "frames"), ("avi",)),
    "--decode-chunk-size": ((), ("2", "0")),
}
TEXTS: dict[str, Values] = {
    "--num-per-prompt": (("1", "2"), NUMBERS),
    "--negative-prompt": (("dog", "''"), ("\udcff",)),
    "--original-size": ((), ("64 64", "0 0")),
    "--lora": ((), ("nothing", "dit", "prompts.txt")),
}
BENCH: dict[str, Values] = DRAW | {
    "--num-images": (("1", "2"), NUMBERS),
    "--repeats": ((), NUMBERS),
    "--warmup": ((), ("-1", "x")),
}
TRAIN: dict[str, Values] = {
    "--batch-size": (("2", "4"), NUMBERS),
    "--learning-rate": (("1e-3",), NUMBERS),
    "--warmup-steps": (("0", "1"), ("9", "-1")),
    "--decay": (("constant", "linear", "cosine"), ("trapezoid", "x")),
    "--optimizer": (("adamw", "muon"), ("sgd",)),
    "--precision": (("fp32", "bf16"), ("fp16",)),
    "--ema-decay": (("0.9",), ("1", "-1", "nan")),
    "--seed": (("1",), NUMBERS),
    "--device": (("cpu",), ("cuda",)),
    "--model.depth": (("2", "3"), NUMBERS),
    "--model.num-skips": (("0", "1"), ("2", "-1")),
    "--model.patch-size": (("2", "4"), ("3", "0", "8")),
    "--model.num-classes": ((), ("9", "0")),
    "--model.class-dropout-prob": (("0", "0.1"), ("1", "-1", "nan")),
    "--model.fuse": (("replace", "residual"), ("x",)),
    "--export-dtype": (("float16", "float32"), ("int8",)),
}
CONVERT: dict[str, Values] = {
    "--as": (("diffusers", "stock", "original"), ("onnx",)),
    "--dtype": (("float16", "bfloat16", "float32"), ("int8",)),
    "--weights": ((), ("ema", "model", "nothing")),
    "--arch": ((), ("dit", "latte", "x")),
    "--set": (("num_heads=2",), ("num_heads=x", "x=1", "num_heads", "sample_size=3,3", "num_heads=0")),
    "--upcycle": ((), ("1", *NUMBERS)),
    "--wrap": ((), ("ema", "x")),
}
PLAN_MODELS = (
    "DiT-XL/2", "Latte-XL/2", "LatteT2V", "HunyuanDiT", "dit", "pipe", "latte", "fashion-skip", "dit-xl-2-256",
)  # fmt: skip




def make_world(folder: Path) -> None:
    """Tiny models in every layout, prompts, and files that are broken."""
    tiny(sample_size=12, patch_size=4, num_classes=5).save_pretrained(folder / "dit")
    pipeline(tiny(sample_size=12, patch_size=4, num_classes=5)).save_pretrained(folder / "pipe")
    tiny(in_channels=4, num_classes=5).save_pretrained(folder / "latent")
    tiny_vae().save_pretrained(folder / "vae")
    tiny_latte(num_classes=5).save_pretrained(folder / "latte")
    tiny_latte(num_classes=0).save_pretrained(folder / "unconditional")
    reader_of_minilm().save_pretrained(folder / "t2v")
    hunyuan_pipeline(folder, tiny_stock_hunyuan()).save_pretrained(folder / "hunyuan")
    state = skipdit.DiT.from_size("S/8", num_classes=10, sample_size=16, in_channels=1).half().state_dict()
    torch.save({"ema": state, "model": state}, folder / "dit.pt")
    (folder / "prompts.txt").write_text("a dog\n\n# no prompt\na cat\n")
    (folder / "prompts.json").write_text('["a dog", {"caption": "a cat"}]')
    (folder / "prompts.csv").write_text("caption,more\na dog,1\n")
    break_things(folder)


def break_things(folder: Path) -> None:
    (folder / "broken.pt").write_bytes((folder / "dit.pt").read_bytes()[:999])
    (folder / "other.safetensors").write_bytes((folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes())
    for name, config in (("broken", "{"), ("empty", None), ("huge", '{"_class_name": "DiT", "depth": 10000000}')):
        (folder / name).mkdir()
        if config is not None:
            (folder / name / "config.json").write_text(config)


def command_line(rng: random.Random) -> str:
    """One line, as a shell would read it, without the name of the program."""
    make = rng.choices((sample, plan, bench, convert, train, other), (45, 20, 7, 12, 8, 8))[0]
    return make(rng)


def value(rng: random.Random, values: Values) -> str:
    usual, odd = values
    return rng.choice(odd if odd and (not usual or rng.random() < ODD) else usual)


def flags(rng: random.Random, table: Mapping[str, Values], *, share: float) -> Iterator[str]:
    """Some flags of a table; those without usual values are rare."""
    for flag, values in table.items():
        if rng.random() < (share if values[0] else share * ODD):
            yield f"{flag} {value(rng, values)}"


def cache(rng: random.Random) -> Iterator[str]:
    """No cache, one that holds together, or flags as they come."""
    if rng.random() < ODD:
        yield from flags(rng, CACHE, share=0.2)
    elif rng.random() < 0.4:
        yield rng.choice(CACHES)


def model_of(rng: random.Random, usual: Sequence[str]) -> str:
    return shlex.quote(rng.choice(BAD_MODELS)) if rng.random() < ODD else rng.choice(usual)


def sample(rng: random.Random) -> str:
    usual, subjects, table, outs = rng.choice((
        (CLASS_MODELS, ("", "--classes 1 2", "--classes 4"), SAMPLE, ("", "", "out/grid.png", "out/all.npz")),
        (CLIP_MODELS[:1], ("", "--classes 1", "--classes 0 4"), SAMPLE | CLIPS, ("", "", "out/clip.webp")),
        (CLIP_MODELS[1:], ("",), SAMPLE | CLIPS, ("", "", "out/clip.gif")),
        (TEXT_MODELS[:1], PROMPTS, DRAW | CLIPS | TEXTS, ("", "out/clip.webp")),
        (TEXT_MODELS[1:], PROMPTS, DRAW | TEXTS, ("", "out/grid.png")),
    ))  # fmt: skip
    subject = rng.choice(subjects if rng.random() > ODD else ODD_SUBJECTS)
    out = rng.choice(outs if rng.random() > ODD else ODD_OUTS) or f"out/{rng.randrange(NUMBERED)}"
    steps = value(rng, (("1", "2", "3"), NUMBERS))
    line = ["sample", model_of(rng, usual), f"--steps {steps} --out {out}", subject, *flags(rng, table, share=0.12)]
    return " ".join(filter(None, [*line, *cache(rng)]))


PROMPTS = ("--prompt dog", "--prompt dog 'a red cat'", "--prompts-file prompts.txt", "--prompts-file prompts.json",
           "--prompts-file prompts.csv")  # fmt: skip
ODD_SUBJECTS = ("--classes 99", "--classes -1", "--classes dog", "--classes 1.5", "--prompt ''", "--prompt",
                "--classes", "--prompts-file nothing.txt", "--prompts-file dit", "--prompts-file dit.pt",
                "--classes '' ''", "--prompt dog --classes 1", "--prompts-file prompts.txt --prompt dog",
                "--classes ٣")  # fmt: skip
ODD_OUTS = ("out/a.jpg", "dit.pt", "prompts.txt/x", "''", "out/x.mp4", "/proc/x", "dit", "out/a.png/b")


def plan(rng: random.Random) -> str:
    steps = value(rng, (("1", "10", "50", "250"), NUMBERS))
    model = f"--model {model_of(rng, PLAN_MODELS)}"
    more = flags(rng, {"--scheduler": DRAW["--scheduler"]}, share=0.2)
    return " ".join(["plan", model, f"--steps {steps}", *more, *cache(rng)])


def bench(rng: random.Random) -> str:
    model, subject = rng.choice((("dit", "--classes 1 2"), ("fashion-skip", "--classes bag"), ("dit", "--classes 9")))
    out = rng.choice(("out/bench.json", "''")) if rng.random() < ODD else "out/bench.json"
    line = ["bench", model_of(rng, [model]), "--steps 4 --repeats 1 --warmup 0 --out", out, subject]
    return " ".join([*line, *flags(rng, BENCH, share=0.08), *cache(rng)])


def convert(rng: random.Random) -> str:
    source = model_of(rng, ("dit", "dit.pt", "latte", "t2v", "pipe", "hunyuan", "fashion-skip"))
    end = rng.choice(("", "", ".pt", ".safetensors", ".onnx"))
    return " ".join(["convert", source, f"out/made-{rng.randrange(99)}{end}", *flags(rng, CONVERT, share=0.3)])


def train(rng: random.Random) -> str:
    steps = value(rng, (("1", "2", "3"), NUMBERS))
    short = "--no-compile --log-every 1 --checkpoint-every 2 --preview-every 0 --model.hidden-size 16 --model.depth 2"
    sizes = f"--model.num-heads 2 --model.num-skips 1 --out out/run-{rng.randrange(9)}"
    return " ".join(["train digits", f"--steps {steps}", short, sizes, *flags(rng, TRAIN, share=0.15)])


OTHERS = (
    "models", "models fashion-skip", "models dit-xl-2-256", "models nothing", "models ''", "--help", "--version", "",
    "nothing", "sample", "sample --help", "plan", "download", "download nothing", "download fashion-skip",
    "download sd-vae-ft-mse", "download --check dit-xl-2-256", "models a b", "train", "train nothing", "convert dit",
    "demo --steps 0", "demo --interval x", "demo --seed -1", "sample dit dit", "plan --model", "bench",
    "sample fashion-skip --steps 1 --classes sneker --out out/x", "plan --model captioned-digits-skip --steps 7",
    "sample dit --steps 1 --out out/y --cache.interval 2 --cache.steps 0,1", "sample dit --out '' --steps 1",
)  # fmt: skip


def other(rng: random.Random) -> str:
    return rng.choice(OTHERS)


def fault_of(line: str) -> tuple[int | str | None, str | None]:
    """The exit code of a line, and what is wrong with how it ended; None where nothing is."""
    try:
        code = main([*shlex.split(line), "--debug"])
        return code, None if code == 0 else f"exit code {code}"
    except SystemExit as stop:  # of tyro: help, or a usage error
        return stop.code, None if stop.code in (0, 2) else f"exit code {stop.code}"
    except Exception as error:
        return type(error).__name__, fault_in(error)


def fault_in(error: Exception) -> str | None:
    """Whether an error is a bug's: of another kind than ours, from inside a library, or too long to read."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place, text = f"{last.filename}:{last.lineno}", str(error)
    if not isinstance(error, (*OURS, OSError)):
        return f"{type(error).__name__} at {place}: {text:.200}"
    if not isinstance(error, OSError) and not Path(last.filename).is_relative_to(SOURCE):
        return f"{type(error).__name__} from inside, {place}: {text:.200}"
    if not text or "\n" in text.strip() or len(text) > LONGEST:
        return f"not a line, at {place}: {text:.200}"
    return None


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In a folder, and without a network."""
    before, online = Path.cwd(), constants.HF_HUB_OFFLINE
    os.chdir(folder)
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        os.chdir(before)
        constants.HF_HUB_OFFLINE = online


def run(count: int, seed: int, folder: Path) -> tuple[Counter, list[str]]:
    """Run so many lines in a new world; returns how they ended, and those that ended wrongly."""
    make_world(folder)
    rng, ended, faults = random.Random(seed), Counter(), []
    with inside(folder), open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        for index in range(count):
            line, before = command_line(rng), time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code, fault = fault_of(line)
            ended[code] += 1
            seconds = time.monotonic() - before
            if os.environ.get("SHOW"):
                print(f"{index} [{code}] {seconds:.1f} s: skipdit {line}", file=sys.__stderr__, flush=True)
            if fault is not None:
                faults.append(f"{index}: skipdit {line}\n    {fault}")
    return ended, faults


def report() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ended, faults = run(asked.count, asked.seed, Path(folder))
    print(f"{asked.count} lines ended as {dict(ended)}; {len(faults)} wrongly")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(report())
