"""A plain folder of videos: folders of images, video files, one video alone."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cache_schema.host.cli import InputError
from extract.datasets import DATASETS, VideoFolder, open_dataset
from extract.datasets.check import check_split


def images(folder, names, size=(16, 24)):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((*size, 3), 10 * i, np.uint8))


def video_file(path, levels=(0, 60, 120, 180), fourcc="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), 10, (24, 16))
    assert writer.isOpened()
    for level in levels:
        writer.write(np.full((16, 24, 3), level, np.uint8))
    writer.release()


def test_folders_of_images_in_natural_order(tmp_path):
    images(tmp_path / "clip10", ["10.png", "2.png", "1.png"])
    images(tmp_path / "clip2", ["a.JPG", "b.bmp", "c.webp", "d.jpeg"])
    (tmp_path / "clip2" / "notes.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README").write_text("x")
    data = VideoFolder(tmp_path)
    assert DATASETS["folder"] is VideoFolder
    assert data.ids == ["clip2", "clip10"] and len(data) == 2
    two, ten = data
    assert two.frame_names == ["a", "b", "c", "d"]
    assert ten.frame_names == ["1", "2", "10"]
    assert [int(ten.read_frame(i).mean()) for i in range(3)] == [20, 10, 0]
    assert ten.expressions == [] and ten.objects == {}
    assert data.fingerprint() == {}


def test_a_folder_of_frames_is_one_video(tmp_path):
    images(tmp_path / "judo", ["00000.jpg", "00001.jpg"])
    (video,) = VideoFolder(tmp_path / "judo")
    assert (video.id, video.num_frames, video.size()) == ("judo", 2, (16, 24))


def test_split_is_a_sub_folder(tmp_path):
    images(tmp_path / "test" / "x", ["0.png"])
    assert VideoFolder(tmp_path, "test").ids == ["x"]
    for split in ("gone", "../test"):
        with pytest.raises(InputError, match=split):
            VideoFolder(tmp_path, split)


@pytest.mark.parametrize("suffix, fourcc", [("avi", "MJPG"), ("mp4", "mp4v")])
def test_video_files(tmp_path, suffix, fourcc):
    video_file(tmp_path / f"a%02d.{suffix}", fourcc=fourcc)
    (video,) = VideoFolder(tmp_path)
    assert video.id == "a%02d"
    assert video.frame_names == ["00000", "00001", "00002", "00003"]
    assert video.size() == (16, 24)
    for i in (0, 1, 3, 2, 2):  # forwards, with a gap, and back
        frame = video.read_frame(i)
        assert frame.shape == (16, 24, 3) and abs(frame.mean() - 60 * i) < 8
    with pytest.raises(InputError, match="frame 4"):
        video.read_frame(4)


def test_bad_videos_stop_only_themselves(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "empty").mkdir()
    images(tmp_path / "twins", ["1.png", "1.jpg"])
    images(tmp_path / "good", ["1.png"])
    data = VideoFolder(tmp_path)
    for video_id, words in [
        ("broken", "broken.mp4 cannot be opened"),
        ("empty", "holds no images"),
        ("twins", "two images named '1'"),
    ]:
        with pytest.raises(InputError, match=f"video {video_id}.*{words}"):
            data.video(video_id)
    assert data.video("good").num_frames == 1


def test_unclear_folders(tmp_path):
    with pytest.raises(InputError, match="gone does not exist"):
        VideoFolder(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no videos"):
        VideoFolder(tmp_path)
    images(tmp_path / "a", ["0.png"])
    (tmp_path / "a.avi").write_bytes(b"")
    with pytest.raises(InputError, match="both named 'a'"):
        VideoFolder(tmp_path)
    images(tmp_path, ["0.png"])
    with pytest.raises(InputError, match="images beside"):
        VideoFolder(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        VideoFolder(tmp_path / "0.png")


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("0.jpg", "1.jpg", "2.tif", "notes.txt"):
        (tmp_path / "clip").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "clip" / "0.jpg"), np.zeros((8, 8, 3), np.uint8))
        (tmp_path / "clip" / name).write_bytes((tmp_path / "clip" / "0.jpg").read_bytes())
    (tmp_path / "other.3gp").write_bytes(b"x")
    video = open_dataset("folder", tmp_path, None).video("clip")
    assert "1 of 2" in capsys.readouterr().err and video.num_frames == 2
    video.size()
    said = capsys.readouterr().err
    assert "2 of 4" in said and "'2.tif'" in said
    report = check_split("folder", tmp_path, None)
    assert not report.wrong and len(report.notes) == 2


def test_a_link_that_leads_nowhere_fails_alone(tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        for frame in "012":
            cv2.imwrite(str(tmp_path / name / f"{frame}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "broken" / "1.png").unlink()
    (tmp_path / "broken" / "1.png").symlink_to("gone/1.png")
    (tmp_path / "lost").symlink_to("gone")
    (tmp_path / "lost.mp4").symlink_to("gone.mp4")
    (tmp_path / "lost.mp4").rename(tmp_path / "film.mp4")
    report = check_split("folder", tmp_path, None, full=True)
    assert report.videos == 4 and len(report.wrong) == 3
    assert VideoFolder(tmp_path).video("whole").size() == (8, 8)
    with pytest.raises(InputError, match="video lost: .* is a link to gone"):
        VideoFolder(tmp_path).video("lost")


def test_videos_of_several_kinds_are_said(tmp_path: Path) -> None:
    """They may be copies of one."""
    for name in ("a.avi", "b.m4v"):
        video_file(tmp_path / "a.avi")
        (tmp_path / "a.avi").replace(tmp_path / name)
    video_file(tmp_path / "a.avi")
    report = check_split("folder", tmp_path, None)
    assert report.videos == 2 and report.frames == 8 and not report.wrong
    assert ".avi and .m4v" in report.notes[0]
