import hashlib
import json
import random
import shutil

import numpy as np
import pytest
from registry_helpers import (
    EARLY,
    LATE,
    ON_SERVERS,
    blob_file,
    columns_of,
    flip_a_byte,
    needs_untyped_columns,
    sql,
    tiny,
    whole,
)
from sqlalchemy import Column, ForeignKey, Integer, Table

from rlarcade.checkpoint import load_checkpoint
from rlarcade.errors import CheckpointError, GameError, RegistryError
from rlarcade.games import get_protocol
from rlarcade.registry import schema, tables
from rlarcade.registry.blobs import PURPOSE
from rlarcade.registry.documents import Version
from rlarcade.registry.registry import Registry, default_actor


def test_a_registered_checkpoint_is_a_version_with_all_that_its_manifest_says(registry):
    version = registry.register(EARLY)
    weights = (EARLY / "weights.safetensors").read_bytes()
    told = json.loads((EARLY / "manifest.json").read_text())
    assert version.number == 1
    assert version.digest == hashlib.sha256(weights).hexdigest()
    assert version.weights_bytes == len(weights)
    manifest = (EARLY / "manifest.json").read_bytes()
    assert version.manifest_digest == hashlib.sha256(manifest).hexdigest()
    assert version.protocol.model_dump() == told["protocol"]
    assert version.libraries == told["libraries"]
    assert (version.steps, version.frames, version.updates) == (2000, 8000, 0)
    assert (version.game, version.num_actions) == ("space_invaders", 6)
    assert (version.preset, version.seed, version.parent) == ("quick", 1, None)
    assert (version.git_commit, version.source) == (told["git_commit"], str(EARLY))
    assert (version.state, version.broken_reason, version.aliases) == ("ok", None, ())
    assert Version.model_validate_json(version.model_dump_json()) == version


def test_the_contract_is_the_digest_of_what_players_must_agree_on(registry):
    told = json.loads((EARLY / "manifest.json").read_text())
    document = {
        "frameskip": 4,
        "game": "space_invaders",
        "num_actions": 6,
        "observation": {"dtype": "uint8", "shape": [4, 84, 84]},
        "protocol": told["protocol"],
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert registry.register(EARLY).contract == hashlib.sha256(text.encode()).hexdigest()


def test_files_are_kept_by_their_digests_and_read_only(registry, folder):
    version = registry.register(LATE)
    for digest, name in (
        (version.digest, "weights.safetensors"),
        (version.manifest_digest, "manifest.json"),
    ):
        path = blob_file(folder, digest)
        assert path.read_bytes() == (LATE / name).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o444
    files = {p.name for p in (folder / "blobs").rglob("*") if p.is_file()}
    assert files - {PURPOSE} == {version.digest, version.manifest_digest}


def test_the_same_weights_twice_are_one_version_and_one_event(registry, tmp_path):
    first = registry.register(EARLY)
    copy = shutil.copytree(EARLY, tmp_path / "copy")
    assert registry.register(copy) == first
    assert len(registry.versions()) == 1
    assert [event.kind for event in registry.events()] == ["register"]


def test_the_same_weights_under_another_contract_are_refused_with_both(registry, tmp_path):
    registry.register(tiny(tmp_path / "a", 1))
    other = tiny(tmp_path / "b", 1, protocol=get_protocol("nature"))
    with pytest.raises(
        RegistryError, match=r"are version 1 already: pong.*a\. .*b says: pong.*nat"
    ):
        registry.register(other)
    assert len(registry.versions()) == 1


def test_a_run_folder_means_its_newest_checkpoint(registry, tmp_path):
    tiny(tmp_path / "run" / "checkpoints" / "step-000000000010", 1)
    newest = tiny(tmp_path / "run" / "checkpoints" / "step-000000000020", 2)
    digest = load_checkpoint(newest).manifest.weights_sha256
    assert registry.register(tmp_path / "run").digest == digest


def test_what_is_no_checkpoint_is_not_registered(registry, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        registry.register(tmp_path / "nothing")
    with pytest.raises(GameError, match="unknown game 'chess'"):
        registry.register(tiny(tmp_path / "chess", 1, "chess"))
    assert registry.versions() == []


def test_a_checkpoint_that_changes_while_it_is_read_is_refused(registry, tmp_path, monkeypatch):
    path = tiny(tmp_path / "c", 1)

    def then_another(name):
        loaded = load_checkpoint(name)
        tiny(path, 2)
        return loaded

    monkeypatch.setattr("rlarcade.registry.registration.load_checkpoint", then_another)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        registry.register(path)
    assert registry.versions() == []

    def then_none(name):
        loaded = load_checkpoint(name)
        shutil.rmtree(path)
        return loaded

    monkeypatch.setattr("rlarcade.registry.registration.load_checkpoint", then_none)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        registry.register(path)


def test_versions_are_listed_by_number_of_one_game_or_all(registry, add):
    for content, game in ((1, "pong"), (2, "breakout"), (3, "pong")):
        add(content, game)
    assert [v.number for v in registry.versions()] == [1, 2, 3]
    assert [v.number for v in registry.versions("ALE/Pong-v5")] == [1, 3]
    assert [v.game for v in registry.versions()] == ["pong", "breakout", "pong"]
    with pytest.raises(GameError, match="unknown game"):
        registry.versions("chess")


def test_numbers_digests_their_beginnings_and_aliases_name_a_version(registry, add):
    add(1)
    version = add(2)
    registry.move_alias("pong", "champion", 2, expected_generation=0, kind="promote")
    for reference in (
        2,
        "2",
        " 2 ",
        version.digest,
        version.digest[:6],
        version.digest[:9].upper(),
    ):
        assert registry.version(reference).digest == version.digest
    for game in ("pong", "Pong", "ALE/Pong-v5", "PongNoFrameskip-v4"):
        assert registry.version(f"champion@{game}").number == 2


def test_digits_alone_are_a_number_first_and_then_the_beginning_of_a_digest(registry, add, folder):
    for content in range(1, 4):
        add(content)
    digest = "123456" + "a" * 58
    sql(folder, "UPDATE versions SET digest = ? WHERE number = 2", digest)
    assert registry.version("123456").number == 2
    sql(folder, "UPDATE versions SET number = 123456 WHERE number = 3")
    assert registry.version("123456").number == 123456


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (9, "no version '9'. Its versions are numbered 1 to 2"),
        (0, "no version '0'"),
        (-1, "no version '-1'"),
        (10**30, "no version '1000"),
        ("9" * 19, "no version whose digest begins with 9999"),
        ("abcde", "no version 'abcde'"),
        ("", "no version ''"),
        ("../../etc/passwd", "no version '../../etc/passwd'"),
        ("000000", "no version whose digest begins with 000000. List them with"),
        ("champion@pong", "pong has no champion. No alias is in use yet"),
        ("../x@pong", "'../x' cannot be an alias"),
    ],
)
def test_what_names_no_version_is_refused(registry, add, reference, message):
    add(1), add(2)
    with pytest.raises(RegistryError, match=message.replace(".", r"\.")):
        registry.version(reference)


def test_an_unknown_game_behind_an_alias_is_refused(registry, add):
    with pytest.raises(GameError, match="unknown game 'chess'"):
        registry.version("champion@chess")
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    with pytest.raises(RegistryError, match="breakout has no champion. Aliases in use: champion@p"):
        registry.version("champion@breakout")


def test_a_beginning_that_several_digests_share_is_refused_with_them(registry, add, folder):
    for content in range(1, 8):
        add(content)
    for number in range(1, 8):
        digest = "abcdef" + f"{number:058d}"
        sql(folder, "UPDATE versions SET digest = ? WHERE number = ?", digest, number)
    with pytest.raises(RegistryError, match=r"several digests: versions 1 \(abcdef.*5 .* and more"):
        registry.version("abcdef")
    sql(folder, "DELETE FROM versions WHERE number > 2")
    with pytest.raises(
        RegistryError, match=r"1 \(abcdef000000…\), 2 \(abcdef000000…\)\. Give more"
    ):
        registry.version("abcdef")


def test_an_empty_registry_says_that_it_is_empty(registry):
    with pytest.raises(RegistryError, match="It holds no version"):
        registry.version(1)


def test_a_version_is_loaded_as_the_checkpoint_that_it_was(registry):
    version = registry.register(LATE)
    loaded, original = registry.load(version.digest), load_checkpoint(LATE)
    assert loaded.manifest == original.manifest
    assert set(loaded.tensors) == set(original.tensors)
    for name, tensor in original.tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor)


def test_a_loaded_version_makes_an_agent(registry):
    from rlarcade import DQNAgent

    registry.register(LATE)
    agent = DQNAgent.load(registry.load(1))
    assert agent.game == "space_invaders"


def test_an_archived_version_is_hidden_but_kept(registry, add):
    add(1), add(2)
    assert registry.archive(1, actor="ann").state == "archived"
    assert [v.number for v in registry.versions()] == [2]
    assert [v.number for v in registry.versions(archived=True)] == [1, 2]
    assert registry.version(1).state == "archived"
    assert registry.load(1).manifest.game == "pong"
    registry.archive(1)
    assert [(e.kind, e.actor) for e in registry.events(2)] == [("archive", "ann")]
    assert whole(registry)


def test_a_version_in_use_is_not_archived(registry, add):
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    with pytest.raises(RegistryError, match="version 1 cannot be archived: it is in use as champ"):
        registry.archive("champion@pong")
    registry.move_alias("pong", "champion", None, expected_generation=1, kind="set")
    assert registry.archive(1).state == "archived"


def test_there_is_no_way_to_delete_or_change_a_version():
    assert not [name for name in dir(Registry) if "delete" in name or "remove" in name]
    assert not [name for name in dir(Registry) if "update" in name]


def test_ten_thousand_versions_are_listed_as_they_are(registry, add, folder):
    add(1)
    kept = [name for name in columns_of("versions") if name not in ("number", "digest")]
    printed = "lpad(to_hex(n.i), 64, '0')" if folder in ON_SERVERS else "printf('%064x', n.i)"
    sql(
        folder,
        f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) "
        f"INSERT INTO versions (number, digest, {', '.join(kept)}) "
        f"SELECT n.i, {printed}, {', '.join('v.' + name for name in kept)} "
        f"FROM n, versions v WHERE v.number = 1",
    )
    listed = registry.versions()
    assert [v.number for v in listed] == list(range(1, 10_001))
    picked = random.Random(0).sample(listed, 50)
    assert all(v == registry.version(v.number) for v in picked)


def test_actors_and_sources_of_any_bytes_are_kept(registry, tmp_path):
    odd = tiny(tmp_path / "odd\udcff", 1)
    version = registry.register(odd, actor="Zo\udcff\0ë")
    assert version.source.endswith("odd\\udcff")
    assert next(registry.events()).actor == "Zo\\udcff\\x00ë"
    assert whole(registry)


def test_whoever_has_no_name_is_unknown(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    assert default_actor("ann") == "ann"
    monkeypatch.setattr("getpass.getuser", nobody)
    assert default_actor() == "unknown"


def test_a_damaged_version_is_marked_and_never_loaded_again(registry, add, folder):
    version = add(1)
    flip_a_byte(blob_file(folder, version.digest))
    with pytest.raises(
        RegistryError, match="version 1 is broken: blobs/.*was altered: its sha256 is .*No other ch"
    ):
        registry.load(1)
    broken = registry.version(1)
    assert broken.state == "broken"
    assert broken.broken_reason.startswith("blobs/sha256/")
    assert [e.kind for e in registry.events()] == ["register", "broken"]
    with pytest.raises(RegistryError, match="version 1 is broken: blobs/"):
        registry.load(1)
    assert len(list(registry.events())) == 2


def test_a_damaged_champion_is_kept_and_the_newest_whole_one_before_it_offered(
    registry, add, folder
):
    versions = [add(content) for content in range(4)]
    for generation, version in enumerate(versions):
        registry.move_alias(
            "pong", "champion", version.number, expected_generation=generation, kind="promote"
        )
    flip_a_byte(blob_file(folder, versions[2].digest))  # the one before, not noticed yet
    blob_file(folder, versions[3].manifest_digest).unlink()
    with pytest.raises(
        RegistryError, match=r"is missing\. Use version 2, the newest intact champion"
    ):
        registry.load("champion@pong")
    assert registry.alias("pong").version == 4
    registry.move_alias("pong", "champion", 1, expected_generation=4, kind="set")
    with pytest.raises(RegistryError, match="Use version 1, the newest intact champion of pong"):
        registry.load(4)


@pytest.mark.parametrize("half", ["digest", "manifest_digest"])
@pytest.mark.parametrize("harm", ["altered", "missing", "link", "folder", "longer"])
def test_registering_again_mends_a_version_whose_files_were_damaged(
    registry, tmp_path, folder, half, harm
):
    checkpoint = tiny(tmp_path / "c", 1)
    path = blob_file(folder, getattr(registry.register(checkpoint), half))
    original = path.read_bytes()
    if harm == "altered":
        flip_a_byte(path)
    elif harm == "longer":
        path.chmod(0o644)
        path.write_bytes(original + b"x")
    else:
        path.unlink()
        if harm == "link":
            (tmp_path / "elsewhere").write_bytes(original)
            path.symlink_to(tmp_path / "elsewhere")
        if harm == "folder":
            path.mkdir()
    with pytest.raises(RegistryError, match="version 1 is broken: blobs/sha256/"):
        registry.load(1)
    if harm == "folder":
        path.rmdir()
    mended = registry.register(checkpoint)
    assert (mended.state, mended.broken_reason) == ("ok", None)
    assert not path.is_symlink()
    assert path.read_bytes() == original
    assert [e.kind for e in registry.events()] == ["register", "broken", "repair"]
    assert registry.load(1).manifest.seed == 1
    assert whole(registry)


def test_damage_that_nobody_had_noticed_is_mended_and_told(registry, tmp_path, folder):
    checkpoint = tiny(tmp_path / "c", 1)
    flip_a_byte(blob_file(folder, registry.register(checkpoint).digest))
    assert registry.register(checkpoint).state == "ok"
    assert [e.kind for e in registry.events()] == ["register", "repair"]
    assert whole(registry)


def test_another_checkpoint_with_the_same_weights_cannot_mend_a_manifest(
    registry, tmp_path, folder
):
    version = registry.register(tiny(tmp_path / "c", 1))
    blob_file(folder, version.manifest_digest).unlink()
    other = tiny(tmp_path / "d", 1, seed=2)
    with pytest.raises(
        RegistryError, match=r"version 1 cannot be repaired with .*d: blobs/.*missing"
    ):
        registry.register(other)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("steps", 9, "its row was altered: steps is 9, its manifest says 10"),
        ("game", "breakout", "game is 'breakout', its manifest says 'pong'"),
        ("contract", "0" * 64, "contract is '000"),
        ("digest", "0" * 64, "is missing"),
        ("digest", "../../../etc/passwd", "is not a sha256 digest"),
        ("digest", 7, "'7' is not a sha256 digest"),
        ("weights_bytes", 7, "bytes, not 7"),
        ("weights_bytes", "many", "bytes, not many"),
        ("manifest_digest", "..", "is not a sha256 digest"),
    ],
)
def test_an_altered_row_is_noticed_when_the_version_is_loaded(
    registry, add, folder, column, value, message
):
    add(1)
    if (column, value) in (("digest", 7), ("weights_bytes", "many")):
        needs_untyped_columns(folder)
    sql(folder, f"UPDATE versions SET {column} = ? WHERE number = 1", value)
    with pytest.raises(RegistryError, match=message):
        registry.load(1)
    assert sql(folder, "SELECT broken_reason IS NOT NULL FROM versions") == [(1,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{}", "its manifest is invalid: 'game' is missing"),
        (b"\xff", "its manifest is invalid"),
        (b"[" * 100_000, "its manifest is invalid"),
        (lambda m: m | {"format_version": 2}, "its manifest has format version 2, not 1"),
        (lambda m: m | {"game": "chess"}, "its row or manifest was altered: unknown game 'chess'"),
    ],
)
def test_a_strangers_manifest_is_no_more_than_data(registry, add, folder, text, message):
    version = add(1)
    if callable(text):
        manifest = json.loads(blob_file(folder, version.manifest_digest).read_bytes())
        text = json.dumps(text(manifest)).encode()
    digest = hashlib.sha256(text).hexdigest()
    blob_file(folder, digest).parent.mkdir(exist_ok=True)
    blob_file(folder, digest).write_bytes(text)
    sql(folder, "UPDATE versions SET manifest_digest = ?", digest)
    with pytest.raises(RegistryError, match=message):
        registry.load(1)


def test_weights_that_are_no_tensors_are_refused_even_with_matching_digests(
    registry, add, folder, tmp_path
):
    import pickle

    version = add(1)
    data = pickle.dumps({"weights": 1})
    digest = hashlib.sha256(data).hexdigest()
    manifest = json.loads(blob_file(folder, version.manifest_digest).read_bytes())
    text = json.dumps(manifest | {"weights_sha256": digest}).encode()
    for content in (data, text):
        name = hashlib.sha256(content).hexdigest()
        blob_file(folder, name).parent.mkdir(exist_ok=True)
        blob_file(folder, name).write_bytes(content)
    sql(
        folder,
        "UPDATE versions SET digest = ?, manifest_digest = ?, weights_bytes = ?",
        digest,
        hashlib.sha256(text).hexdigest(),
        len(data),
    )
    with pytest.raises(
        RegistryError, match="is not a safetensors file.*Nothing in it was executed"
    ):
        registry.load(1)


@pytest.mark.parametrize("column", ["protocol", "libraries"])
def test_a_row_that_is_no_version_any_more_is_named(registry, add, folder, column):
    add(1)
    sql(folder, f"UPDATE versions SET {column} = 'x'")
    with pytest.raises(RegistryError, match="version 1 cannot be read: its row was altered"):
        registry.versions()


def test_a_folder_of_blobs_that_leads_elsewhere_is_not_written_to(registry, tmp_path, folder):
    checkpoint = tiny(tmp_path / "c", 1)
    digest = load_checkpoint(checkpoint).manifest.weights_sha256
    (tmp_path / "outside").mkdir()
    blob_file(folder, digest).parent.symlink_to(tmp_path / "outside")
    with pytest.raises(RegistryError, match="is a link and might lead out of the registry"):
        registry.register(checkpoint)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.fixture
def another_table(tmp_path):
    """A table that refers to versions and says nothing more, for one test."""
    table = Table(
        "experiments",
        tables.metadata,
        Column("id", Integer, primary_key=True),
        Column("control", Integer, ForeignKey("versions.number")),
        Column("challenger", Integer, ForeignKey("versions.number")),
    )
    schema._expected.cache_clear()
    yield table
    tables.metadata.remove(table)
    schema._expected.cache_clear()


@pytest.mark.parametrize("column", ["control", "challenger"])
def test_a_new_table_keeps_the_versions_in_use_that_it_refers_to(another_table, tmp_path, column):
    with Registry.open(tmp_path / "new") as registry:
        for content in (1, 2):
            registry.register(tiny(tmp_path / str(content), content))
        with registry.change() as change:
            change.execute(another_table.insert().values({"id": 7, column: 1}))
            change.record("rollout", {})
        with pytest.raises(RegistryError, match="it is in use as a row of experiments. First"):
            registry.archive(1)
        another_table.info["use"] = tables.Use("rollout {id}", another_table.c.id > 6)
        with pytest.raises(RegistryError, match="it is in use as rollout 7. First"):
            registry.archive(1)
        assert registry.archive(2).state == "archived"
        another_table.info["use"] = tables.Use("rollout {id}", another_table.c.id > 7)
        assert registry.archive(1).state == "archived"


def test_every_table_that_refers_to_versions_says_how_it_uses_them():
    referring = {
        table.name
        for table in tables.metadata.sorted_tables
        if any(key.column is tables.versions.c.number for key in table.foreign_keys)
    }
    assert referring == {t.name for t in tables.metadata.sorted_tables if "use" in t.info}
