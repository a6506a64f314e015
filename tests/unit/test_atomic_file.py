from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path

import pytest

from memomalloc.data.atomic_file import atomic_file, require_writable


def test_the_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def fail_half_way(path: Path, error: type[BaseException]) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_half_written_stays(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(error):
        fail_half_way(path, error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [name]


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with atomic_file(tmp_path / "atomic"):
        pass
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


def test_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="name a file in it"), atomic_file(tmp_path):
        pass
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "none" / "a.txt"):
        pass


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "none" / "file"
    with pytest.raises(FileNotFoundError) as caught, atomic_file(path):
        pass
    assert caught.value.filename == str(path)


def write(path: Path, content: bytes = b"new") -> None:
    with atomic_file(path) as file:
        file.write(content)


def test_a_link_stays_one_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to("folder/target")
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path / "folder") == ["target"]


def test_what_a_link_names_is_made(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_ring_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "a"))):
        write(tmp_path / "a")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604, 0o755])
def test_the_mode_is_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(mode)
    inode = path.stat().st_ino
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.stat().st_ino != inode, "not replaced, so not atomic"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_file_whose_owner_cannot_be_kept_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("old and longer")
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)

    monkeypatch.setattr("memomalloc.data.atomic_file._take_over", lambda *_: False)
    inode, owner = path.stat().st_ino, path.stat().st_uid
    write(path)
    assert path.read_text() == "new"
    assert (path.stat().st_ino, path.stat().st_uid) == (inode, owner)
    assert os.listdir(tmp_path) == ["a"]


def test_extended_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    try:
        os.setxattr(path, "user.note", b"mine")
    except OSError:
        pytest.skip("this file system has none")
    write(path)
    assert os.getxattr(path, "user.note") == b"mine"


def test_a_device_stays_a_device() -> None:
    before = os.stat("/dev/null")
    write(Path("/dev/null"))
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    with pytest.raises(OSError, match=r"No space left.*/dev/full"):
        write(Path("/dev/full"))


def test_a_pipe_gets_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write(path, b"x" * 300_000)
    reader.join(60)
    assert got == [b"x" * 300_000]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_an_open_descriptor_is_written_to_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "wb", buffering=0) as file:
        file.write(b"before ")
        write(Path(f"/dev/fd/{file.fileno()}"))
        write(Path(f"/proc/self/fd/{file.fileno()}"), b" twice")
    assert path.read_bytes() == b"before new twice"


def test_nothing_reaches_a_pipe_of_what_fails(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with pytest.raises(KeyError):
        fail_half_way(Path(f"/dev/fd/{writer}"), KeyError)
    os.close(writer)
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_a_name_of_the_largest_length_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write(path)
    assert path.read_text() == "new"
    with pytest.raises(OSError, match="too long"):
        write(tmp_path / ("n" * 256))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["new", "old", "link"])
def test_what_can_be_written_is_known_before(tmp_path: Path, name: str) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    before = sorted(os.listdir(tmp_path))
    require_writable(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "old").read_text() == "old"
    with pytest.raises(FileNotFoundError):
        require_writable(tmp_path / "none" / "a")
    with pytest.raises(IsADirectoryError):
        require_writable(tmp_path)
