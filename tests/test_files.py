"""Files from outside are opened with care; ours are written whole; links are not followed."""

import os
import socket
import threading

import pytest

from rlarcade.files import (
    UnfitFileError,
    check_own,
    open_own,
    open_regular,
    own_folder,
    read_bounded,
    read_bounded_text,
    read_own,
    remove_own,
    write_file,
    write_folder,
    write_synced,
)


def within(seconds, work):
    """Runs the work, which must not take longer: waiting for ever is what it must not do."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"it still waits after {seconds} s"
    return outcome[0]


def refusal(path, limit=100):
    try:
        read_bounded(path, limit)
    except UnfitFileError as error:
        return error.strerror
    return None


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert within(5, lambda: refusal(tmp_path / "pipe")) == "it is a FIFO, not a regular file"


def test_folders_devices_and_sockets_are_refused_by_kind(tmp_path):
    assert "a folder" in refusal(tmp_path)
    assert "a device" in refusal("/dev/zero")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match="No such device or address"):
            read_bounded(tmp_path / "s")


def test_a_sparse_file_of_sixty_gigabytes_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(60_000_000_000)
    assert "60,000,000,000 bytes, more than the 100" in refusal(tmp_path / "big")


def test_a_file_within_the_bound_is_read_whole_through_a_link_that_the_user_named(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("file")
    assert read_bounded(tmp_path / "link", 100) == b"x" * 100
    assert refusal(tmp_path / "file", 99)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x" * 10)
    real = os.fstat

    def before_it_grew(descriptor):
        found = real(descriptor)
        with (tmp_path / "file").open("ab") as file:
            file.write(b"more")
        return found

    with monkeypatch.context() as patched:
        patched.setattr("rlarcade.files.os.fstat", before_it_grew)
        with pytest.raises(UnfitFileError, match="it grew while it was read"):
            read_bounded(tmp_path / "file")


def test_text_that_is_not_utf8_is_a_unicode_error_and_an_absent_file_the_systems_own(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_bounded_text(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_a_temporary_file_that_is_a_link_is_not_followed_and_its_target_stays(
    tmp_path, monkeypatch
):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".f.writing").symlink_to("precious")
    (tmp_path / ".f.0a1b2c3d.writing").symlink_to("precious")
    with monkeypatch.context() as patched:  # even if somebody guessed the name
        patched.setattr("rlarcade.files.secrets.token_hex", lambda _: "0a1b2c3d")
        with pytest.raises(FileExistsError):
            write_file(tmp_path / "f", b"new")
    write_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert (tmp_path / "precious").read_text() == "precious"


def test_of_two_who_write_a_file_at_once_neither_fails_and_the_last_ones_is_whole(
    tmp_path, monkeypatch
):
    real = write_synced

    def overtaken(path, data):
        real(path, data)
        if data == b"first":
            write_file(tmp_path / "f", b"second")

    monkeypatch.setattr("rlarcade.files.write_synced", overtaken)
    write_file(tmp_path / "f", b"first")
    assert (tmp_path / "f").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("stop", [OSError("full"), KeyboardInterrupt()])
def test_whatever_ends_the_writing_of_a_file_leaves_the_old_one_and_nothing_else(
    tmp_path, monkeypatch, stop
):
    (tmp_path / "f").write_text("old")

    def stopped(path, data):
        path.write_bytes(data[:1])
        raise stop

    monkeypatch.setattr("rlarcade.files.write_synced", stopped)
    with pytest.raises(type(stop)):
        write_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("name", [".f.writing", ".f.old", "f"])
def test_a_folder_that_is_written_never_goes_through_a_link(tmp_path, name):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a").write_text("precious")
    if name == ".f.old":
        (tmp_path / "f").mkdir()
    (tmp_path / name).symlink_to("precious")
    write_folder(tmp_path / "f", {"a": b"new"})
    assert (tmp_path / "f" / "a").read_bytes() == b"new"
    assert not (tmp_path / "f").is_symlink()
    assert (tmp_path / "precious" / "a").read_text() == "precious"


def test_a_link_is_removed_without_what_it_points_to(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a").write_text("precious")
    (tmp_path / "link").symlink_to("precious")
    remove_own(tmp_path / "link")
    remove_own(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert (tmp_path / "precious" / "a").read_text() == "precious"
    remove_own(tmp_path / "precious")
    assert not list(tmp_path.iterdir())


def test_a_folder_or_file_of_our_own_is_no_link_no_fifo_and_no_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").symlink_to("elsewhere")
    with pytest.raises(UnfitFileError, match="a link"):
        own_folder(tmp_path / "folder")
    with pytest.raises(UnfitFileError, match="a link"):
        check_own(tmp_path / "folder")
    with pytest.raises(UnfitFileError, match="a link"):
        open_own(tmp_path / "folder", os.O_RDONLY)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnfitFileError, match="a FIFO"):
        open_own(tmp_path / "pipe", os.O_RDWR)
    with pytest.raises(UnfitFileError, match="a folder"):
        open_own(tmp_path / "elsewhere", os.O_RDONLY)


def test_a_file_of_our_own_is_made_where_there_is_none_and_kept_where_there_is(tmp_path):
    folder = own_folder(tmp_path / "a" / "b")
    with os.fdopen(open_own(folder / "f", os.O_RDWR | os.O_CREAT), "wb") as file:
        file.write(b"kept")
    with os.fdopen(open_own(folder / "f", os.O_RDWR | os.O_CREAT), "rb") as file:
        assert file.read() == b"kept"


def test_a_link_that_is_put_in_the_place_of_a_file_of_our_own_at_any_moment_is_not_followed(
    tmp_path, monkeypatch
):
    """Somebody exchanges the file for a link just before it is opened."""
    (tmp_path / "secret").write_text("secret")
    real = os.open

    def exchanged(path, *args, **kwargs):
        (tmp_path / "f").unlink()
        (tmp_path / "f").symlink_to("secret")
        return real(path, *args, **kwargs)

    for read in (read_own, lambda path: os.close(open_own(path, os.O_RDONLY))):
        (tmp_path / "f").unlink(missing_ok=True)
        (tmp_path / "f").write_text("ours")
        with monkeypatch.context() as patched:
            patched.setattr("rlarcade.files.os.open", exchanged)
            with pytest.raises(UnfitFileError, match="it is a link, and links in such a folder"):
                read(tmp_path / "f")


def test_a_file_of_our_own_is_read_within_its_bound_and_refused_in_the_words_of_others(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 100)
    assert read_own(tmp_path / "f", 100) == b"x" * 100
    with pytest.raises(UnfitFileError, match="it has 100 bytes, more than the 99"):
        read_own(tmp_path / "f", 99)
    with pytest.raises(UnfitFileError, match="a folder"):
        read_own(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_own(tmp_path / "absent")
