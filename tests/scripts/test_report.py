"""The page of an evaluation, in a real browser."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_schema.__main__ import main as copy
from cache_schema.host import cli
from cache_schema.reader import CacheReader
from extract.__main__ import main as extract
from extract.demo.layout import write_split
from scripts.report import main as report
from train.__main__ import main as train
from train.evaluate import main as evaluate

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "extract/assets/vita_tiny.safetensors"
CONFIG = str(ROOT / "train/configs/demo.py")
SMALL = ["train.max_iters=2", "train.batch_size=2", "model.num_layers=1"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated head, and the report of it."""
    root = tmp_path_factory.mktemp("report")
    write_split(root / "data", "train", 3, seed=5)
    command = ["demo", "--data-root", str(root / "data"), "--split", "train", "--device", "cpu"]
    assert extract([*command, "--weights", str(WEIGHTS), "--out", str(root / "cache")]) == 0
    cache = ["--cache", str(root / "cache")]
    options = ["--cfg-options", *SMALL]
    assert train([CONFIG, *cache, "--work-dir", str(root / "run"), *options]) == 0
    command = [CONFIG, *cache, "--checkpoint", str(root / "run"), "--out", str(root), "--controls"]
    assert evaluate([*command, *options]) == 0
    command = [*cache, "--evaluation", f"ours={root}"]
    command += [f'"again" (<script>, 2)={root}', "--out"]
    command += [str(root / "report.html"), "--data-root", str(root / "data"), "--split", "train"]
    assert report(command) == 0
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium without a screen."""
    selenium = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs Chromium and its driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for word in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "window-size=1300,1000"):
        options.add_argument(f"--{word}")
    for word in ("disable-background-networking", "disable-component-update", "disable-sync"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def page(world: Path, browser):
    """The report, just loaded."""
    browser.get((world / "report.html").as_uri())
    yield browser
    assert browser.get_log("browser") == []


def column(page, number: int) -> list[str]:
    cells = page.find_elements("css selector", f"#list tr td:nth-child({number})")
    return [cell.text for cell in cells]


def pixels(page) -> list[int]:
    """How many pixels of each picture are marked, once it is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    def drawn(_) -> list[int] | bool:
        found = [c.get_attribute("data-pixels") for c in page.find_elements("tag name", "canvas")]
        return None not in found and [int(value) for value in found]

    return WebDriverWait(page, 20).until(drawn)


def test_it_is_one_small_file_that_asks_for_nothing(world: Path) -> None:
    text = (world / "report.html").read_text("utf-8")
    assert "http://" not in text and "https://" not in text
    assert (world / "report.html").stat().st_size < 5e6


def test_figures_are_those_of_the_evaluation(page, world: Path) -> None:
    metrics = json.loads((world / "metrics.json").read_text())
    rows = [row.text for row in page.find_elements("css selector", "#figures tr")]
    assert rows[1].startswith(f"ours {100 * metrics['J&F']:.1f}")
    assert any(row.startswith("best choice") for row in rows)
    assert len(column(page, 1)) == metrics["num_expressions"]


def test_it_sorts_and_filters(page, world: Path) -> None:
    page.find_element("id", "worst").click()
    scores = [float(text) for text in column(page, 4)]
    assert scores == sorted(scores)
    (button,) = [b for b in page.find_elements("css selector", "th button") if b.text == "ours"]
    button.click()
    assert [float(text) for text in column(page, 4)] == sorted(scores, reverse=True)
    everything = column(page, 1)
    tag = column(page, 2)[0]
    page.find_element("css selector", f"#tag option[value='{tag}']").click()
    assert set(column(page, 2)) == {tag} and 0 < len(column(page, 1)) < len(everything)
    page.find_element("css selector", "#tag option[value='']").click()
    page.find_element("id", "search").send_keys(everything[0])
    assert everything[0] in column(page, 1)
    page.find_element("id", "search").send_keys(" nothing says that")
    assert column(page, 1) == []


def test_frames_slide_and_truth_lies_where_it_is(page, world: Path) -> None:
    from pycocotools import mask as coco

    row = page.find_elements("css selector", "#list tr")[0]
    row.click()
    video_id, _, expression_id = row.get_attribute("data-key").partition("/")
    video = CacheReader(world / "cache").video(video_id)
    assert row.text.startswith(video.expression(expression_id).text)
    ids = video.expression(expression_id).annotation_ids
    for t in (0, 3):
        page.execute_script(
            "const s = document.getElementById('frame'); s.value = arguments[0];"
            "document.querySelectorAll('canvas').forEach(c => delete c.dataset.pixels);"
            "s.dispatchEvent(new Event('input'));",
            t,
        )
        assert f"{t + 1} of {video.num_frames}" in page.find_element("id", "number").text
        masks = [coco.decode(rle[t]) for rle in map(video.object, ids) if rle[t] is not None]
        expected = int(sum(masks).astype(bool).sum()) if masks else 0
        assert pixels(page)[0] == expected


def test_a_folder_without_an_evaluation_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--cache", str(world / "cache"), "--evaluation", str(tmp_path), "--out", "r.html"]
    assert cli.run(report, words) == 2
    assert "run train.evaluate first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--num": "-1"}, "--num -1: give 1 or more"),
        ({"--evaluation": "{root}"}, "several are called"),
        ({"--cache": "{root}/part"}, "lacks"),
        ({"--cache": "{root}/other"}, "give the cache it came from"),
        ({"--split": "valid_u"}, "there is no video"),
        ({"--out": "."}, "--out .: give a file that ends in .html"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    change: dict[str, str], sentence: str, world: Path, capsys: pytest.CaptureFixture
) -> None:
    if not (world / "part").exists():
        video = CacheReader(world / "cache").video_ids[0]
        (world / "ids").write_text(video)
        command = ["copy", str(world / "cache"), str(world / "part")]
        assert copy([*command, "--videos", str(world / "ids")]) == 0
        write_split(world / "data", "valid_u", 1, seed=6)
        command = ["demo", "--data-root", str(world / "data"), "--split", "valid_u"]
        command += ["--weights", str(WEIGHTS), "--device", "cpu"]
        assert extract([*command, "--out", str(world / "other")]) == 0
    words = {"--cache": "{root}/cache", "--evaluation": "a={root}", "--out": "{root}/refused.html",
             "--data-root": "{root}/data", "--split": "train", **change}  # fmt: skip
    command = [word.format(root=world) for pair in words.items() for word in pair]
    command += ["--evaluation", str(world), str(world)] if "--evaluation" in change else []
    assert cli.run(report, command) == 2
    assert sentence in capsys.readouterr().err
    assert not (world / "refused.html").exists()


def test_figures_that_are_none_are_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    metrics = json.loads((world / "metrics.json").read_text())
    metrics["run"]["keep"] = "all"
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "predictions.h5").symlink_to(world / "predictions.h5")
    words = ["--cache", str(world / "cache"), "--evaluation", str(tmp_path), "--out", "r.html"]
    assert cli.run(report, words) == 2
    assert "'all' queries were kept" in capsys.readouterr().err
