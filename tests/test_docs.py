"""The documentation: its links, its commands, its examples, its tables of keys, and its size."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import yaml
from PIL import Image
from skimage import data as data_of_skimage
from torch.distributed.run import get_args_parser

import demo
import run
from inference.samples import SAMPLE
from modules.build import SCHEMA, read_config
from tests.clips import write_dataset
from tests.small import small_config, write_config

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "data" / "taichi-loading" / "README.md",
    ROOT / "sup-mat" / "puppets-128.md",
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# A path in backticks: with a folder, so that names of the published code and of results don't count.
PATH = re.compile(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|yaml|md|csv|png|pth\.tar))`")
SUPPLIED = ("data/vox256.csv",)  # named by the published configs, and told to be missing

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return [text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


# ---- Size --------------------------------------------------------------------


def test_readme_fits_on_two_screens() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1200
    assert [line for line in text.splitlines() if len(line) > 120] == []


def test_readme_lists_every_page() -> None:
    links = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")}
    assert pages <= set(links)


# ---- Links -------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if link.startswith("https://"):
            continue  # tests need no network
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@each_page
def test_paths_in_backticks_exist(page: Path) -> None:
    named = set(PATH.findall(page.read_text(encoding="utf-8"))) - set(SUPPLIED)
    assert sorted(name for name in named if not exists_in_repository(name)) == []


def exists_in_repository(name: str) -> bool:
    written = ("log/", "train-vis/", "animation/", "reconstruction/", "crops/")  # by the programs
    return name.startswith(written) or (ROOT / name).exists()


# ---- Commands ----------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in a page's bash blocks, without comments and environment settings."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.replace("$seed", "0").replace("$rate", "1.0e-4")  # of loops
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Za-z_]+=.*", words[0]):
                del words[0]
            if words and words[0] not in ("for", "done"):
                yield words


class Parsed(Exception):
    """Leaves a program as soon as it has read its arguments."""


def check_program(monkeypatch: pytest.MonkeyPatch, module_name: str, arguments: list[str]) -> None:
    """Let a program of ours read its arguments, and do nothing else. A wrong one is a `SystemExit`."""
    module = importlib.import_module(module_name)
    if hasattr(module, "__path__"):  # a package, as `python -m` runs it
        module = importlib.import_module(f"{module_name}.__main__")
    if hasattr(module, "parse"):
        options = module.parse(arguments)  # with its checks of what goes together
        if module is run:
            written = ROOT / "config" / options.config.name.replace("mine-256", "taichi-256")
            read_config(written, options.set or ())
        return
    if vars(module).keys().isdisjoint({"OptionParser", "read_options"}):
        assert arguments == [], f"{module_name} takes no arguments"
        return
    read = argparse.ArgumentParser.parse_args

    def read_and_leave(self: argparse.ArgumentParser, args: list[str] | None = None) -> None:
        read(self, args)
        raise Parsed

    with monkeypatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(argparse.ArgumentParser, "parse_args", read_and_leave)
        patch.setattr(sys, "argv", [module_name, *arguments])
        module.main()


def check_python(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    if words[0] == "-m":
        check_program(monkeypatch, words[1], words[2:])
        return
    assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
    check_program(monkeypatch, words[0].removesuffix(".py").replace("/", "."), words[1:])


def check_torchrun(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    options = get_args_parser().parse_args(words)
    check_python(monkeypatch, [options.training_script, *options.training_script_args])


def check_srun(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    assert words[0] == "torchrun"
    check_torchrun(monkeypatch, words[1:])


def check_make(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets)


def check_files(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """The options of pip and pytest are theirs; the files that they are given are ours."""
    for word in words:
        path = word.split("::")[0]
        if re.search(r"/|\.txt$|\.py$", path) and "://" not in path:
            assert (ROOT / path).exists(), f"there is no {path}"


def ignore(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """A program whose arguments this project has no say in."""


CHECKS: dict[str, Callable[[pytest.MonkeyPatch, list[str]], None]] = {
    "python": check_python,
    "torchrun": check_torchrun,
    "srun": check_srun,
    "make": check_make,
    "pip": check_files,
    "pytest": check_files,
    "ruff": check_files,
    "mypy": check_files,
    "pre-commit": ignore,
    "git": ignore,
    "sbatch": ignore,
    "cd": ignore,
    "cp": ignore,
}


@each_page
def test_commands_are_read_by_the_programs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands(page):
        program, *arguments = words
        assert program in CHECKS, f"no check of: {shlex.join(words)}"
        try:
            CHECKS[program](monkeypatch, arguments)
        except SystemExit:
            pytest.fail(f"the program refuses: {shlex.join(words)}")


def test_a_wrong_option_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("demo.py --relativ_", "export.py --fast --out b", "-m tools.benchmarks --slow"):
        with pytest.raises(SystemExit):
            check_python(monkeypatch, wrong.split())


# ---- Commands that run ---------------------------------------------------------

# Words of a command, and why it isn't run. All others are.
NOT_RUN = {
    "pip install": "downloads",
    "git clone": "downloads",
    "git show": "needs the history",
    "cd first-order-model": "has been done",
    "pre-commit": "changes the checkout",
    "make": "makes an environment, or runs all tests",
    "ruff": "is what `make test` runs",
    "mypy": "is what `make test` runs",
    "pytest": "is this",
    "cp config/": "what the editing leaves is there: config/mine-256.yaml",
    "--model vox": "downloads a model",
    "load_videos.py": "downloads videos",
    "--tracker wandb": "needs a login",
    "--device_ids": "needs GPUs",
    "torchrun": "needs GPUs",
    "sbatch": "needs Slurm",
    "make_puppets.py": "takes minutes; tests/test_puppets.py draws fewer",
    "config/puppets-": "takes hours of training",
    "log/puppets-128_TIMESTAMP": "is what hours of training leave",
    "--landmarks": "needs packages, or a dataset of puppets; see tests/test_evaluate.py",
    "tools.guide_puppets": "takes minutes; see tests/test_guide_puppets.py",
    "tools.benchmarks": "takes minutes or hours; see tests/test_benchmarks.py",
    "--model puppets --out puppets-onnx": "takes a minute; see tests/test_export.py",
    "tools.table": "needs runs of more epochs; see tests/test_run_record.py",
    "app.py": "serves until it is stopped; see tests/test_app.py",
}


def not_run(words: list[str]) -> list[str]:
    text = shlex.join(words)
    return [part for part in NOT_RUN if text.startswith(part) or f" {part}" in text or f"/{part}" in text]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small stand-in for each file that the documentation names: configs, clips, a run."""
    place = tmp_path_factory.mktemp("stage")
    # Configs with their own data, and small networks.
    (place / "config").mkdir()
    sources = {path.name: path for path in (ROOT / "config").glob("*-*.yaml")}
    for name, path in {**sources, "mine-256.yaml": sources["taichi-256.yaml"]}.items():
        data = yaml.safe_load(path.read_text(encoding="utf-8"))["dataset_params"]
        data |= {"frame_shape": [32, 32, 3], "augmentation_params": {"crop_param": {"size": [32, 32]}}}
        if name == "mine-256.yaml":
            data = {name: data[name] for name in ("frame_shape", "augmentation_params")} | {
                "root_dir": "data/mine"
            }
        shrunk = small_config({"train_params.num_repeats": 4, "train_params.num_epochs": 1})
        write_config(place / "config" / name, shrunk | {"dataset_params": data})
    # Pictures and videos with a face.
    head = Image.fromarray(data_of_skimage.astronaut()).crop((70, 0, 390, 320))
    Image.fromarray(data_of_skimage.astronaut()).save(place / "me.jpg")
    head.resize((1200, 800)).save(place / "drawn.png")
    (place / "my-videos").mkdir()
    for path in (place / "talk.mp4", *(place / "my-videos" / f"{number}.mp4" for number in range(3))):
        iio.imwrite(path, np.stack([np.roll(np.asarray(head), 4 * t, axis=1) for t in range(3)]), fps=25)
    # A dataset, and a run on it as it is left by training.
    write_dataset(place / "data" / "vox-png", train=2, test=2, frames=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run.main(["config/vox-256.yaml", "--name", "vox-256_2026-01-31_12-00-00", "--device", "cpu"])
    trained = place / "log" / "vox-256_2026-01-31_12-00-00"
    checkpoint = trained / "00000000-checkpoint.pth.tar"
    shutil.copy(checkpoint, place / "vox-cpk.pth.tar")
    shutil.copytree(trained, place / "log" / "RUN")
    (place / "log" / "RUN" / "vox-256.yaml").unlink()
    shutil.copy(place / "config" / "mine-256.yaml", place / "log" / "RUN")
    shutil.copy(checkpoint, place / "log" / "RUN" / "best-checkpoint.pth.tar")
    return place


@each_page
def test_commands_run(page: Path, stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a page one after the other, in this process."""
    monkeypatch.chdir(stage)
    monkeypatch.setitem(SAMPLE, "driving_video", stage / "talk.mp4")  # shorter than the one in sup-mat/
    for words in commands(page):
        if not_run(words):
            continue
        assert words[0] == "python", f"neither run nor in NOT_RUN: {shlex.join(words)}"
        module = importlib.import_module(words[1].removesuffix(".py").replace("/", "."))
        try:
            module.main(words[2:])
        except SystemExit as stop:
            assert not stop.code, f"{shlex.join(words)} ends with {stop.code}"


def test_what_is_not_run_is_there() -> None:
    named = {part for page in PAGES for words in commands(page) for part in not_run(words)}
    assert named == NOT_RUN.keys()


# ---- Options -----------------------------------------------------------------


@pytest.mark.parametrize(("page", "program"), [("training.md", run), ("animate.md", demo)])
def test_the_tables_of_options_are_complete(
    page: str, program: types.ModuleType, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        program.parse(["--help"])
    known = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE)) - {"debug"}
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`--.*?`) \|", text, re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"--(\w+)", cell)) == sorted(known)


# ---- Examples ----------------------------------------------------------------


@each_page
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = blocks(page, "python")
    if not examples or page.name == "app.md":  # that one needs a server, see tests/test_app_api.py
        return
    for folder in ("config", "sup-mat"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    for number, example in enumerate(examples):
        module = types.ModuleType(f"example_{number}")
        exec(compile(example, f"{page.name}, example {number}", "exec"), vars(module))


@each_page
def test_yaml_examples_are_keys_of_a_config(page: Path) -> None:
    known = set(schema_keys(SCHEMA))
    for block in blocks(page, "yaml"):
        assert set(schema_keys(yaml.safe_load(block))) <= known


# ---- Keys --------------------------------------------------------------------


def schema_keys(schema: dict, above: str = "") -> dict[str, bool]:
    """The dotted names of the values of a config or of its schema, and whether each may be left out."""
    keys = {}
    for name, value in schema.items():
        key = above + name.rstrip("?")
        keys |= schema_keys(value, f"{key}.") if isinstance(value, dict) else {key: name.endswith("?")}
    return keys


def test_the_table_of_keys_is_complete() -> None:
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)) == sorted(schema_keys(SCHEMA))


def test_optional_keys_have_a_default() -> None:
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| .* \|(.*)\|$", text, re.MULTILINE)
    told = {key for key, default in rows if default.strip()}
    assert {key for key, optional in schema_keys(SCHEMA).items() if optional} <= told


def test_taichi_config_explains_every_key() -> None:
    text = (ROOT / "config" / "taichi-256.yaml").read_text(encoding="utf-8")
    names = {key.rpartition(".")[2] for key in schema_keys(SCHEMA)}
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", text)) == []


# ---- Habits ------------------------------------------------------------------


def checks_of_make_test() -> set[str]:
    """What `make test` runs before the tests, as a person would type it."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert recipe is not None
    lines = [re.sub(r"\$\(VENV\)/bin/(python -m )?", "", line.strip()) for line in recipe[1].splitlines()]
    return {line for line in lines if not line.startswith("pytest")}


def test_pre_commit_and_workflow_run_what_make_test_checks() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert checks_of_make_test() <= {hook["entry"] for place in config["repos"] for hook in place["hooks"]}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    run = "\n".join(step.get("run", "") for step in workflow["jobs"]["test"]["steps"])
    assert all(check in run for check in {"make test", *checks_of_make_test()})
