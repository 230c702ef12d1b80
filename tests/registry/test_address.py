"""Addresses of registries and of blobs, as users write them. No server is needed."""

from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

from rlarcade import promote
from rlarcade.errors import ConfigError, UnusableRegistryError
from rlarcade.registry.address import ServerAddress, address_of
from rlarcade.registry.blobs import DamagedBlobError, FolderBlobs, sha256
from rlarcade.registry.remote_blobs import RemoteBlobs, blobs_at


def test_an_address_names_a_database_and_the_place_of_the_blobs():
    read = address_of("postgresql://anna@db.example:5433/games?blobs=s3://b/f&sslmode=require")
    assert isinstance(read, ServerAddress)
    assert read.blobs == "s3://b/f"
    assert (read.url.host, read.url.port, read.url.database) == ("db.example", 5433, "games")
    assert str(read) == "postgresql://anna@db.example:5433/games?sslmode=require"
    assert str(address_of("postgres://db.example/games")) == "postgresql://db.example/games"


@pytest.mark.parametrize("text", ["checkpoints/registry", "a:b", "/tmp/x", "postgresql"])
def test_anything_without_a_scheme_is_a_folder(text):
    assert address_of(text) == Path(text)
    assert address_of(Path(text)) == Path(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql://db.example/games", "'mysql':// is no kind of registry. Give a folder, or"),
        ("http://anna:secret@db.example/games", "'http':// is no kind of registry"),
        ("postgresql://anna:secret@db.example", "names no database. Give postgresql://USER"),
        ("postgresql://anna:secret@db.example:0/games", "port 0 .* is not 1 to 65535"),
        ("postgresql://anna:secret@db.example:x/games", "is no address of a database"),
        ("postgresql://db.example/games?blobs=a&blobs=b", "says blobs= twice"),
        ("postgresql://db.example/ga\0mes", "holds a NUL character"),
        (Path("postgresql://anna:secret@db.example/games"), "two slashes follow .* as text"),
        (7, "a registry cannot be 7"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_without_its_password(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        address_of(text)
    assert "secret" not in str(caught.value)


def test_a_command_tells_a_wrong_address_in_a_line(capsys):
    assert promote.main(["versions", "--registry", "mysql://db.example/games"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("rlarcade: error: 'mysql':// is no kind of registry")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("place", ["blobs", "./blobs", "file://blobs"])
def test_blobs_in_a_relative_folder_are_refused(place):
    with pytest.raises(ConfigError, match="is a relative path"):
        blobs_at(place)


@pytest.mark.parametrize("place", ["/srv/blobs", "file:///srv/blobs", "local:///srv/blobs"])
def test_blobs_in_an_absolute_folder_are_files(place):
    found = blobs_at(place)
    assert isinstance(found, FolderBlobs)
    assert found.folder == Path("/srv/blobs")


def test_a_kind_of_store_that_nobody_knows_is_told_without_its_password():
    with pytest.raises(ConfigError, match="blobs='nosuch://host/x' cannot be used") as caught:
        blobs_at("nosuch://anna:secret@host/x")
    assert "secret" not in str(caught.value)


@pytest.fixture
def remote(request):
    """Blobs in fsspec's store in memory, and the path of a blob there."""
    place = f"memory://{abs(hash(request.node.name))}/blobs"
    files, root = fsspec.core.url_to_fs(place)
    return blobs_at(place), files, lambda digest: f"{root}/{digest[:2]}/{digest}"


def test_remote_blobs_are_kept_by_their_digests(remote):
    blobs, files, path = remote
    digests = [blobs.put(data) for data in (b"one", b"two", b"")]
    assert digests == [sha256(b"one"), sha256(b"two"), sha256(b"")]
    assert [blobs.get(digest) for digest in digests] == [b"one", b"two", b""]
    assert list(blobs.digests()) == sorted(digests)
    assert all(blobs.holds(digest) for digest in digests)
    assert files.cat_file(path(digests[0])) == b"one"
    assert not blobs.holds("ab" * 32)
    assert not blobs.holds("../../etc/passwd")


def test_damage_of_remote_blobs_is_found_and_mended(remote):
    blobs, files, path = remote
    digest = blobs.put(b"content")
    for data, message in ((b"conten", "has 6 bytes, not 7"), (b"CONTENT", "was altered")):
        files.pipe_file(path(digest), data)
        assert message in blobs.damage(digest, 7)
        assert blobs.put(b"content") == digest
        assert blobs.damage(digest, 7) is None
    files.rm(path(digest))
    with pytest.raises(DamagedBlobError, match="is missing"):
        blobs.get(digest)
    files.makedirs(path(digest))
    with pytest.raises(DamagedBlobError, match="not a regular file|is missing"):
        blobs.get(digest)


def test_a_remote_blob_that_is_too_large_is_not_read(remote, monkeypatch):
    blobs, files, _ = remote
    digest = blobs.put(b"content")

    def read(*ignored, **more):
        raise AssertionError("it was read")

    monkeypatch.setattr(files, "cat_file", read)
    with pytest.raises(DamagedBlobError, match="7 bytes, more than the 3"):
        blobs.get(digest, limit=3)


@pytest.mark.parametrize("error", [OSError("no route to host"), ValueError("503 SlowDown")])
@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda blobs: blobs.get("ab" * 32), "read"),
        (lambda blobs: blobs.put(b"x"), "read"),
        (lambda blobs: blobs.holds("ab" * 32), "looked up"),
        (lambda blobs: list(blobs.digests()), "listed"),
    ],
)
def test_a_store_that_fails_is_no_damage(monkeypatch, error, call, what):
    blobs = RemoteBlobs("memory://fails/blobs")

    def failing(*ignored, **more):
        raise error

    for name in ("info", "exists", "find"):
        monkeypatch.setattr(blobs._files, name, failing)
    with pytest.raises(UnusableRegistryError, match=f"cannot be {what}: .*{error}"):
        call(blobs)


class Buckets(fsspec.AbstractFileSystem):
    """An object store in memory. As s3fs does, `makedirs` makes the bucket, too."""

    protocol = "buckets"
    cachable = False
    kept: ClassVar[dict[str, bytes]] = {}
    made: ClassVar[set[str]] = set()

    def pipe_file(self, path, value, **_):
        if path.partition("/")[0] not in self.made:
            raise FileNotFoundError("The specified bucket does not exist")
        self.kept[path] = value

    def cat_file(self, path, **_):
        return self.kept[path]

    def info(self, path, **_):
        if path in self.made:
            return {"name": path, "type": "directory", "size": 0}
        if path not in self.kept:
            raise FileNotFoundError(path)
        return {"name": path, "type": "file", "size": len(self.kept[path])}

    def makedirs(self, path, exist_ok=False):
        self.made.add(path.partition("/")[0])

    def find(self, path, **_):
        return [name for name in self.kept if name.startswith(path)]


@pytest.fixture
def buckets(monkeypatch):
    monkeypatch.setattr(Buckets, "kept", {})
    monkeypatch.setattr(Buckets, "made", {"games"})
    fsspec.register_implementation("buckets", Buckets, clobber=True)
    return Buckets


def test_a_bucket_that_does_not_exist_is_told_and_not_made(buckets):
    """A slip in its name would otherwise make a bucket somewhere, and put the weights there."""
    blobs = blobs_at("buckets://gmaes/team")
    for write in (blobs.begin, lambda: blobs.put(b"weights")):
        with pytest.raises(UnusableRegistryError, match="bucket does not exist .*Nothing was c"):
            write()
    assert (buckets.made, buckets.kept) == ({"games"}, {})


def test_what_says_the_purpose_of_the_place_is_no_blob(buckets):
    for place in ("buckets://games/team", "buckets://games"):
        blobs = blobs_at(place)
        blobs.begin()
        digest = blobs.put(b"weights")
        assert list(blobs.digests()) == [digest]
        buckets.kept.clear()


def test_folders_are_made_where_a_store_has_folders(monkeypatch):
    """As over SFTP: a file cannot be written before its folder exists."""
    blobs = blobs_at("memory://has-folders/blobs")
    files, folders, written = blobs._files, set(), blobs._files.pipe_file

    def pipe_file(path, data):
        if path.rpartition("/")[0] not in folders:
            raise OSError(2, "No such file")
        written(path, data)

    monkeypatch.setattr(files, "pipe_file", pipe_file)
    monkeypatch.setattr(files, "makedirs", lambda path, exist_ok: folders.add(path))
    blobs.begin()
    digest = blobs.put(b"weights")
    assert blobs.get(digest) == b"weights"
    assert folders == {"/has-folders/blobs", f"/has-folders/blobs/{digest[:2]}"}
