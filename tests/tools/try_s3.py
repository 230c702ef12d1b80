"""A registry in PostgreSQL with its blobs in S3, or rather in moto, which imitates S3.

    pip install 'moto[server]' s3fs
    PYTHONPATH=tests python tests/tools/try_s3.py

Not among the tests: moto and s3fs bring dozens of packages, some newer than `constraints.txt` has.
"""

import os
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import boto3
import fsspec
import postgres_server
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from registry_helpers import EARLY, LATE

from rlarcade.errors import UnusableRegistryError
from rlarcade.registry.registry import Registry
from rlarcade.registry.remote_blobs import blobs_at

PLACE = "s3://games/team/blobs"


def elsewhere(*words: object) -> str:
    """Runs Python in another process."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blobs() -> None:
    """What one process writes, damages and removes, another one sees at once."""
    here, stored = blobs_at(PLACE), fsspec.filesystem("s3")
    first, other = here.put(b"first"), sha256(b"other").hexdigest()
    assert [*here.digests()] == [first]
    assert not here.holds(other)
    put = "import sys; from rlarcade.registry.remote_blobs import blobs_at as at"
    elsewhere("-c", f"{put}; at(sys.argv[1]).put(b'other')", PLACE)
    assert here.get(other) == b"other"
    assert sorted(here.digests()) == sorted([first, other])
    path = f"{PLACE}/{first[:2]}/{first}"
    stored.pipe_file(path, b"fir")  # an upload that broke off
    assert "altered" in str(here.damage(first))
    here.put(b"first")
    assert here.damage(first) is None
    stored.rm(path)
    assert "missing" in str(here.damage(first))
    large = os.urandom(30_000_000)
    assert here.get(here.put(large)) == large
    slip = blobs_at("s3://gmaes/team/blobs")
    for write in (slip.begin, lambda: slip.put(b"first")):
        with pytest.raises(UnusableRegistryError, match="bucket does not exist"):
            write()
    assert stored.ls("/", refresh=True) == ["games"]


def registry(folder: Path) -> None:
    """Versions are registered, promoted, verified, exported and copied to a folder."""
    server = postgres_server.Server(postgres_server.programs(), folder)
    try:
        address = postgres_server.new_database(server.url)
        with Registry.open(f"{address}?blobs={PLACE}") as there:
            for agent in (EARLY, LATE):
                there.register(agent)
            there.move_alias("space_invaders", "champion", 1, expected_generation=0, kind="promote")
            assert there.verify() == []
        promote = ("-m", "rlarcade.promote")
        assert "champion" in elsewhere(*promote, "versions", "--registry", address)
        assert "as it was registered" in elsewhere(*promote, "verify", "--registry", address)
        elsewhere(*promote, "export", folder / "all.tar", "--registry", address)
        elsewhere(*promote, "copy", folder / "copy", "--registry", address)
        with Registry.open(folder / "copy") as copy:
            assert copy.verify() == []
            assert copy.load(2).manifest.game == "space_invaders"
    finally:
        server.stop()


def main() -> None:
    """Plays both."""
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    os.environ |= keys | {"AWS_DEFAULT_REGION": "us-east-1"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        os.environ["AWS_ENDPOINT_URL"] = url
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="games")
        blobs()
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)  # the database runs as another user
            registry(Path(folder))
    finally:
        server.stop()
    print(f"as it should be, with s3fs {s3fs.__version__}")


if __name__ == "__main__":
    main()
