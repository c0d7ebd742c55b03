"""Tiles: their names, their content at every size, reading hashes back, and the directory they lie in."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audit.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from deployments.audit.tiles import (
    MAX_ENTRY_BYTES,
    BadTile,
    DirectoryStore,
    TileConflict,
    TileFile,
    TileName,
    TileReader,
    TileWriter,
    entries_path,
    narrower,
    parse_bundle,
    parse_path,
    tile_path,
)

ENTRIES = [b"entry %d" % number for number in range(70_000)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
SIZES = [0, 1, 2, 255, 256, 257, 511, 512, 513, 700, 65_535, 65_536, 65_537, 66_000, 70_000]


class MemoryStore:
    """A store of a dict that counts its readings."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.readings = 0

    def read(self, path: str) -> bytes | None:
        self.readings += 1
        return self.files.get(path)

    def write(self, path: str, data: bytes) -> None:
        if self.files.setdefault(path, data) != data:
            raise TileConflict(path)


class Trees:
    """One log, stored as of each of `SIZES`: `stores[size]` is what a log of that size has to serve."""

    def __init__(self) -> None:
        writer, full = TileWriter(), dict[str, bytes]()
        self.stores: dict[int, MemoryStore] = {}
        self.roots: dict[int, bytes] = {}
        for size in range(SIZES[-1] + 1):
            if size in SIZES:
                store = MemoryStore()
                store.files = full | dict(writer.partials())
                self.stores[size], self.roots[size] = store, writer.root()
            if size < SIZES[-1]:
                full.update(writer.append(ENTRIES[size], LEAVES[size]))


@pytest.fixture(scope="module")
def trees() -> Trees:
    return Trees()


def _grown(size: int) -> tuple[TileWriter, list[TileFile]]:
    writer = TileWriter()
    return writer, writer.extend(zip(ENTRIES[:size], LEAVES[:size], strict=True))


def _stored(size: int) -> MemoryStore:
    writer, full = _grown(size)
    store = MemoryStore()
    store.files = dict([*full, *writer.partials()])
    return store


# --- names ---


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (TileName(0, 0), "tile/0/000"),
        (TileName(0, 999), "tile/0/999"),
        (TileName(3, 1_000), "tile/3/x001/000"),
        (TileName(0, 1_234_067), "tile/0/x001/x234/067"),
        (TileName(63, 273, 112), "tile/63/273.p/112"),
        (TileName(None, 1_234_067, 1), "tile/entries/x001/x234/067.p/1"),
    ],
)
def test_a_tile_has_the_path_of_the_specification(name: TileName, path: str) -> None:
    assert name.path == path
    assert parse_path(path) == name


@given(st.none() | st.integers(0, 63), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_every_path_reads_back(level: int | None, index: int, width: int) -> None:
    name = TileName(level, index, width)
    assert parse_path(name.path) == name


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000/",
        "tile/0/000\n",
        "/tile/0/000",
        "tile/0/../000",
        "../tile/0/000",
        "tile/0/000.new",
        "tile/data/000",
        "tile/0/" + "x999/" * 6 + "999",
        "tile/\u0660/000",
    ],
)
def test_a_path_that_is_not_the_only_spelling_of_a_tile_is_refused(path: str) -> None:
    with pytest.raises(BadTile):
        parse_path(path)


@given(st.text(max_size=40) | st.from_regex(r"tile/[0-9a-z]*/[x0-9/]*(\.p/[0-9]*)?", fullmatch=True))
def test_any_text_is_refused_or_is_the_path_it_means(path: str) -> None:
    with contextlib.suppress(BadTile):
        assert parse_path(path).path == path


# --- writing ---


def test_a_tree_of_70000_leaves_has_the_tiles_of_the_specification(trees: Trees) -> None:
    names = [parse_path(path) for path in trees.stores[70_000].files]
    assert sum(name.level == 0 and name.width == 256 for name in names) == 273
    assert [name for name in names if name.level == 0 and name.width < 256] == [TileName(0, 273, 112)]
    assert [name for name in names if name.level == 1] == [TileName(1, 0), TileName(1, 1, 17)]
    assert [name for name in names if name.level == 2] == [TileName(2, 0, 1)]
    assert sum(name.level is None for name in names) == 274


def test_at_every_size_the_partial_tiles_are_those_that_the_size_needs() -> None:
    writer = TileWriter()
    for size in range(800):
        expected = {
            name.path
            for level in range(3)
            if (count := size // 256**level) % 256
            for name in [TileName(level, count // 256, count % 256)]
        }
        if size % 256:
            expected.add(entries_path(size // 256, size % 256))
        assert {path for path, _ in writer.partials()} == expected
        assert writer.size == size
        full = {path for path, _ in writer.append(ENTRIES[size], LEAVES[size])}
        assert full == ({tile_path(0, size // 256), entries_path(size // 256)} if size % 256 == 255 else set())


def test_each_hash_of_a_tile_is_the_root_of_its_leaves(trees: Trees) -> None:
    for path, data in trees.stores[70_000].files.items():
        name = parse_path(path)
        if name.level is None:
            continue
        span = 256**name.level
        first = name.index * 256
        assert len(data) == name.width * 32
        for place in range(0, name.width, 1 if name.level else 64):
            begin = (first + place) * span
            assert data[place * 32 : (place + 1) * 32] == root_of(LEAVES[begin : begin + span])


def test_a_bundle_holds_the_entries_after_their_lengths() -> None:
    writer = TileWriter()
    for entry in (b"", b"ab", b"x" * 300):
        writer.append(entry, leaf_hash(entry))
    assert dict(writer.partials())[entries_path(0, 3)] == b"\0\0" + b"\0\2ab" + b"\x01\x2c" + b"x" * 300


def test_an_entry_whose_length_does_not_fit_is_not_added() -> None:
    writer, _ = _grown(3)
    before = writer.root(), writer.partials()
    entry = b"x" * (MAX_ENTRY_BYTES + 1)
    with pytest.raises(ValueError, match="65535 bytes"):
        writer.append(entry, leaf_hash(entry))
    assert (writer.root(), writer.partials()) == before
    writer.append(entry[1:], leaf_hash(entry[1:]))
    assert writer.size == 4


@pytest.mark.parametrize("size", SIZES)
def test_a_writer_resumes_from_the_tiles_of_any_size(trees: Trees, size: int) -> None:
    resumed = TileWriter.resume(trees.stores[size], size, trees.roots[size])
    assert (resumed.size, resumed.root()) == (size, root_of(LEAVES[:size]))
    store = trees.stores[size]
    assert all(store.files[path] == data for path, data in resumed.partials())
    further = [(ENTRIES[at], LEAVES[at]) for at in range(300)]
    grown, _ = _grown(size)
    assert resumed.extend(further) == grown.extend(further)
    assert resumed.partials() == grown.partials()


def test_a_writer_does_not_resume_from_tiles_with_another_root() -> None:
    with pytest.raises(BadTile, match="another root"):
        TileWriter.resume(_stored(300), 300, LEAVES[0])


@pytest.mark.parametrize("path", [tile_path(0, 1, 44), tile_path(1, 0, 1), entries_path(1, 44)])
def test_a_writer_does_not_resume_without_the_partial_tiles(path: str) -> None:
    store = _stored(300)
    del store.files[path]
    with pytest.raises(BadTile, match="missing"):
        TileWriter.resume(store, 300, root_of(LEAVES[:300]))


def test_a_writer_does_not_resume_from_entries_that_are_not_the_leaves() -> None:
    store = _stored(300)
    bundle = store.files[entries_path(1, 44)]
    store.files[entries_path(1, 44)] = bundle.replace(b"entry 299", b"entry 298")
    with pytest.raises(BadTile, match="entry 299"):
        TileWriter.resume(store, 300, root_of(LEAVES[:300]))


# --- reading ---


@pytest.mark.parametrize("size", [1, 255, 256, 257, 513, 700])
def test_every_complete_subtree_is_answered(trees: Trees, size: int) -> None:
    at = TileReader(trees.stores[size]).at(size)
    for level in range(size.bit_length()):
        for index in range(size >> level):
            assert at(level, index) == root_of(LEAVES[index << level : (index + 1) << level])


@pytest.mark.parametrize("size", SIZES[1:])
def test_proofs_made_from_tiles_are_accepted(trees: Trees, size: int) -> None:
    at, root = TileReader(trees.stores[size]).at(size), trees.roots[size]
    for place in sorted({0, 1, size // 2, size - 2, size - 1, 255, 256} & set(range(size))):
        assert verify_inclusion(place, size, LEAVES[place], inclusion_proof(place, size, at), root)
        proof = consistency_proof(place + 1, size, at)
        assert verify_consistency(place + 1, size, root_of(LEAVES[: place + 1]), root, proof)


def test_an_older_tree_is_read_from_the_tiles_of_a_newer_one(trees: Trees) -> None:
    reader = TileReader(trees.stores[700])
    assert inclusion_proof(3, 512, reader.at(512)) == inclusion_proof(3, 512, TileReader(trees.stores[512]).at(512))


@pytest.mark.parametrize(("level", "index"), [(0, 700), (9, 1), (10, 0), (-1, 0), (0, -1)])
def test_a_subtree_that_is_not_complete_is_not_answered(trees: Trees, level: int, index: int) -> None:
    with pytest.raises(ValueError, match="not complete"):
        TileReader(trees.stores[700]).at(700)(level, index)


def test_a_partial_tile_that_is_gone_is_read_from_the_full_one(trees: Trees) -> None:
    store = MemoryStore()
    store.files = {path: data for path, data in trees.stores[70_000].files.items() if ".p/" not in path}
    store.files |= {path: data for path, data in trees.stores[700].files.items() if path.startswith("tile/1/")}
    assert TileReader(store).at(700)(0, 699) == LEAVES[699]
    assert list(TileReader(store).entries(690, 700, 700)) == ENTRIES[690:700]
    assert TileWriter.resume(store, 700, root_of(LEAVES[:700])).root() == root_of(LEAVES[:700])


def test_a_missing_tile_is_an_error() -> None:
    store = _stored(300)
    del store.files[tile_path(0, 0)]
    with pytest.raises(BadTile, match="tile/0/000 is missing"):
        TileReader(store).at(300)(0, 0)


@pytest.mark.parametrize("change", [-1, 1, -32, 32])
def test_a_tile_of_another_length_is_an_error(change: int) -> None:
    store = _stored(300)
    data = store.files[tile_path(0, 1, 44)]
    store.files[tile_path(0, 1, 44)] = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(BadTile, match="wrong length"):
        TileReader(store).at(300)(0, 256)


def test_a_tile_stays_in_memory_until_others_take_its_place() -> None:
    store = _stored(1_024)
    reader = TileReader(store, cached=2)
    at = reader.at(1_024)
    for place, readings in [(0, 1), (1, 1), (256, 2), (0, 2), (512, 3), (256, 4)]:
        at(0, place)
        assert store.readings == readings


def test_entries_are_read_in_any_range(trees: Trees) -> None:
    reader = TileReader(trees.stores[700])
    for begin, end in [(0, 700), (0, 0), (700, 700), (255, 257), (256, 512), (600, 601)]:
        assert list(reader.entries(begin, end, 700)) == ENTRIES[begin:end]
    for begin, end in [(-1, 3), (4, 3), (0, 701)]:
        with pytest.raises(ValueError, match="range"):
            list(reader.entries(begin, end, 700))


def test_an_entry_with_one_bit_changed_is_not_read() -> None:
    store = _stored(5)
    path, bundle = entries_path(0, 5), store.files[entries_path(0, 5)]
    for bit in range(len(bundle) * 8):
        store.files[path] = bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(bundle))
        with pytest.raises(BadTile):
            list(TileReader(store).entries(0, 5, 5))


def test_a_bundle_without_its_last_entry_is_not_read() -> None:
    store = _stored(5)
    bundle = store.files[entries_path(0, 5)]
    store.files[entries_path(0, 5)] = bundle[: -2 - len(ENTRIES[4])]
    with pytest.raises(BadTile, match="fewer entries"):
        list(TileReader(store).entries(0, 5, 5))


def test_a_bundle_cut_at_any_byte_within_an_entry_is_refused() -> None:
    bundle = b"\0\3abc\0\2de"
    assert parse_bundle(bundle) == [b"abc", b"de"]
    for length in range(len(bundle)):
        if length not in (0, 5):
            with pytest.raises(BadTile):
                parse_bundle(bundle[:length])


def test_a_partial_tile_is_cut_from_a_wider_one_and_never_from_a_narrower_one() -> None:
    five, three = _stored(5).files, _stored(3).files
    for path, data in three.items():
        name = parse_path(path)
        wider = TileName(name.level, name.index, 5)
        assert narrower(name, five[wider.path]) == data
        assert narrower(wider, five[wider.path]) == five[wider.path]
        with pytest.raises(BadTile, match="not within"):
            narrower(wider, data)


# --- the directory ---


def test_a_log_in_a_directory_is_read_back(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "public")
    writer, full = _grown(300)
    for path, data in [*full, *writer.partials()]:
        store.write(path, data)
    assert TileWriter.resume(store, 300, writer.root()).root() == writer.root()
    assert list(TileReader(store).entries(0, 300, 300)) == ENTRIES[:300]
    assert sorted(str(file.relative_to(tmp_path / "public")) for file in tmp_path.rglob("*") if file.is_file()) == [
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/44",
    ]


def test_the_same_bytes_may_be_written_again(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.write("tile/0/000", b"one")
    store.write("tile/0/000", b"one")
    assert store.read("tile/0/000") == b"one"


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/000.p/3", "tile/entries/000"])
def test_other_bytes_under_a_stored_name_are_refused(tmp_path: Path, path: str) -> None:
    store = DirectoryStore(tmp_path)
    store.write(path, b"one")
    with pytest.raises(TileConflict):
        store.write(path, b"two")
    assert store.read(path) == b"one"


@pytest.mark.parametrize("path", ["../secret", "tile/0/../../../secret", "secret", "/etc/hostname"])
def test_a_directory_answers_for_no_path_but_those_of_tiles(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    store = DirectoryStore(tmp_path / "public")
    with pytest.raises(BadTile):
        store.read(path)
    with pytest.raises(BadTile):
        store.write(path, b"data")
    with pytest.raises(BadTile):
        store.drop_partials(path)


def test_a_tile_that_was_never_written_is_none(tmp_path: Path) -> None:
    assert DirectoryStore(tmp_path).read("tile/0/000") is None


def test_a_tile_that_the_disk_refuses_is_not_there_and_can_be_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)
    store.write("tile/0/000", b"one")

    def fail(descriptor: int) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space"):
            store.write("tile/0/001", b"a longer text than the next")
    assert store.read("tile/0/001") is None
    store.write("tile/0/001", b"two")
    assert store.read("tile/0/001") == b"two"


def test_file_and_directory_are_synced_before_a_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    store = DirectoryStore(tmp_path)
    store.write("tile/0/000", b"one")
    assert synced[-2:] == ["000.new", "0"]
    assert {tmp_path.name, "tile"} <= set(synced)
    synced.clear()
    store.write("tile/0/000", b"one")
    assert synced == ["0"]


def test_partial_tiles_go_only_once_the_full_one_is_stored(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for width in (1, 2, 200):
        store.write(f"tile/0/000.p/{width}", b"x" * width)
    assert store.drop_partials("tile/0/000") == 0
    assert store.read("tile/0/000.p/200") is not None
    store.write("tile/0/000", b"full")
    assert store.drop_partials("tile/0/000.p/200") == 0
    assert store.drop_partials("tile/0/000") == 3
    assert store.read("tile/0/000.p/200") is None
    assert store.read("tile/0/000") == b"full"
    assert store.drop_partials("tile/0/000") == 0


def test_the_writer_of_an_empty_tree_has_no_tiles() -> None:
    writer = TileWriter()
    assert (writer.size, writer.root(), writer.partials()) == (0, EMPTY_ROOT, [])


def test_a_batch_is_stored_and_says_which_other_bytes_it_replaced(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert store.replace_all([("tile/0/000", b"one"), ("tile/0/001.p/3", b"two")]) == []
    assert store.replace_all([("tile/0/000", b"one"), ("tile/0/001.p/3", b"other")]) == ["tile/0/001.p/3"]
    assert (store.read("tile/0/000"), store.read("tile/0/001.p/3")) == (b"one", b"other")
    assert [name.path for name in store.partials()] == ["tile/0/001.p/3"]


def test_partial_tiles_that_are_to_stay_are_not_dropped(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.replace_all([("tile/0/000", b"full"), *((f"tile/0/000.p/{width}", b"x") for width in (1, 2, 20))])
    assert store.drop_partials("tile/0/000", keep=[2]) == 2
    assert [name.path for name in store.partials()] == ["tile/0/000.p/2"]
    assert store.drop_partials("tile/0/000") == 1


def test_what_was_not_written_to_its_end_goes_and_all_else_stays(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, ".7.new")
    store.replace_all([("tile/0/000", b"full"), ("tile/0/001.p/2", b"x")])
    (tmp_path / "tile" / "0" / "002.6.new").write_bytes(b"half")
    (tmp_path / "tile" / "0" / "001.p" / "3.new").write_bytes(b"half")
    store.settle()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["tile/0/000", "tile/0/001.p/2"]
