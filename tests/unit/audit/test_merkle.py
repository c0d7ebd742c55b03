"""Roots and proofs against the reference figures, against RFC 6962 written down naively, and against tampering."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audit.merkle import (
    EMPTY_ROOT,
    MAX_PROOF_HASHES,
    MAX_SIZE,
    BadFrontier,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# Figures of the Certificate Transparency reference tests.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
L0 = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
L1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
L4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
N01 = "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
N23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
N45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
N67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
N03 = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
N47 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
CT_INCLUSION = {
    (0, 1): [],
    (0, 8): [L1, N23, N47],
    (5, 8): [L4, N67, N03],
    (2, 3): [N01],
    (1, 5): [L0, N23, L4],
}
CT_CONSISTENCY = {(1, 1): [], (1, 8): [L1, N23, N47], (6, 8): [N45, N67, N03], (2, 5): [N23, L4]}

SIZES = range(301)
LEAVES = [leaf_hash(b"%d" % number) for number in range(301)]
Garbage = st.integers(-3, 70) | st.sampled_from([MAX_SIZE - 1, MAX_SIZE, MAX_SIZE + 1, 2**64, 2**200])


# RFC 6962 section 2.1 as it stands there. `_mth(m, n)` is MTH(D[m:n]).


def _split(count: int) -> int:
    power = 1
    while power * 2 < count:
        power *= 2
    return power


@cache
def _mth(begin: int, end: int) -> bytes:
    if begin == end:
        return sha256(b"").digest()
    if end - begin == 1:
        return LEAVES[begin]
    middle = begin + _split(end - begin)
    return sha256(b"\x01" + _mth(begin, middle) + _mth(middle, end)).digest()


def _path(index: int, begin: int, end: int) -> list[bytes]:
    if end - begin == 1:
        return []
    middle = begin + _split(end - begin)
    if index < middle:
        return [*_path(index, begin, middle), _mth(middle, end)]
    return [*_path(index, middle, end), _mth(begin, middle)]


def _subproof(old: int, begin: int, end: int, complete: bool) -> list[bytes]:
    if old == end:
        return [] if complete else [_mth(begin, end)]
    middle = begin + _split(end - begin)
    if old <= middle:
        return [*_subproof(old, begin, middle, complete), _mth(middle, end)]
    return [*_subproof(old, middle, end, False), _mth(begin, middle)]


def _at(level: int, index: int) -> bytes:
    return _mth(index << level, (index + 1) << level)


def _hashes(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def _flip(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))


# --- reference figures ---


def test_the_reference_leaves_have_the_reference_roots() -> None:
    leaves = [leaf_hash(entry) for entry in CT_LEAVES]
    assert [root_of(leaves[:size]).hex() for size in range(9)] == CT_ROOTS
    assert EMPTY_ROOT.hex() == CT_ROOTS[0]


def _ct_at(level: int, index: int) -> bytes:
    return root_of(leaf_hash(entry) for entry in CT_LEAVES[index << level : (index + 1) << level])


@pytest.mark.parametrize(("index", "size"), CT_INCLUSION)
def test_the_reference_inclusion_proofs_are_made_and_accepted(index: int, size: int) -> None:
    proof = _hashes(CT_INCLUSION[index, size])
    assert inclusion_proof(index, size, _ct_at) == proof
    assert verify_inclusion(index, size, leaf_hash(CT_LEAVES[index]), proof, bytes.fromhex(CT_ROOTS[size]))


@pytest.mark.parametrize(("old", "new"), CT_CONSISTENCY)
def test_the_reference_consistency_proofs_are_made_and_accepted(old: int, new: int) -> None:
    proof = _hashes(CT_CONSISTENCY[old, new])
    assert consistency_proof(old, new, _ct_at) == proof
    assert verify_consistency(old, new, bytes.fromhex(CT_ROOTS[old]), bytes.fromhex(CT_ROOTS[new]), proof)


# --- against the definition, for every size up to 300 ---


def test_the_root_is_that_of_the_definition_at_every_size() -> None:
    frontier = Frontier()
    for size in SIZES:
        assert frontier.size == size
        assert frontier.root() == _mth(0, size) == root_of(LEAVES[:size])
        if size < len(LEAVES):
            frontier.append(LEAVES[size])


def test_every_inclusion_proof_is_that_of_the_definition_and_accepted() -> None:
    for size in SIZES:
        root = _mth(0, size)
        for index in range(size):
            proof = inclusion_proof(index, size, _at)
            assert proof == _path(index, 0, size)
            assert verify_inclusion(index, size, LEAVES[index], proof, root)


def test_every_consistency_proof_is_that_of_the_definition_and_accepted() -> None:
    for new in SIZES:
        for old in range(new + 1):
            proof = consistency_proof(old, new, _at)
            assert proof == (_subproof(old, 0, new, True) if old else [])
            assert verify_consistency(old, new, _mth(0, old), _mth(0, new), proof)


def test_a_proof_asks_for_complete_subtrees_only() -> None:
    def at(level: int, index: int) -> bytes:
        assert (index + 1) << level <= 300
        return _at(level, index)

    for number in range(300):
        inclusion_proof(number, 300, at)
        consistency_proof(number, 300, at)


def _alike() -> Callable[[int, int], bytes]:
    """The tree whose leaves are all the same, as large as one likes."""
    levels = [leaf_hash(b"same")]
    while len(levels) < 64:
        levels.append(node_hash(levels[-1], levels[-1]))
    return lambda level, _index: levels[level]


@pytest.mark.parametrize("size", [2**32 - 1, 2**32, 2**40 + 12_345, MAX_SIZE])
def test_proofs_hold_in_trees_larger_than_any_log(size: int) -> None:
    at = _alike()
    root = Frontier.at(size, at).root()
    for place in (0, 1, size // 3, size - 2, size - 1):
        proof = inclusion_proof(place, size, at)
        assert len(proof) <= MAX_PROOF_HASHES
        assert verify_inclusion(place, size, at(0, place), proof, root)
        proof = consistency_proof(place + 1, size, at)
        assert len(proof) <= MAX_PROOF_HASHES + 1
        assert verify_consistency(place + 1, size, Frontier.at(place + 1, at).root(), root, proof)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 5), (5, 5), (6, 5)])
def test_no_inclusion_proof_is_made_for_an_index_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="index"):
        inclusion_proof(index, size, _at)


@pytest.mark.parametrize(("old", "new"), [(-1, 5), (6, 5)])
def test_no_consistency_proof_is_made_towards_a_smaller_tree(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="old size"):
        consistency_proof(old, new, _at)


# --- tampering ---


def test_a_leaf_is_not_accepted_at_any_other_index() -> None:
    for size in range(1, 40):
        for index in range(size):
            proof, root = _path(index, 0, size), _mth(0, size)
            others = [other for other in range(-1, size + 2) if other != index]
            assert not any(verify_inclusion(other, size, LEAVES[index], proof, root) for other in others)


def test_a_proof_with_a_hash_more_less_or_elsewhere_is_refused() -> None:
    for size in range(2, 40):
        root = _mth(0, size)
        for number in range(size):
            leaf, path = LEAVES[number], _path(number, 0, size)
            for wrong in _rearranged(path):
                assert not verify_inclusion(number, size, leaf, wrong, root)
            if number:
                before, proof = _mth(0, number), _subproof(number, 0, size, True)
                for wrong in _rearranged(proof):
                    assert not verify_consistency(number, size, before, root, wrong)


def _rearranged(proof: list[bytes]) -> list[list[bytes]]:
    return [
        proof[1:],
        proof[:-1],
        [*proof, proof[-1]],
        [proof[0], *proof],
        [*proof, EMPTY_ROOT],
        *([proof[::-1]] if proof != proof[::-1] else []),
    ]


@given(st.data())
def test_an_inclusion_proof_with_one_bit_changed_anywhere_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 300))
    index = data.draw(st.integers(0, size - 1))
    parts = [LEAVES[index], _mth(0, size), *_path(index, 0, size)]
    assert verify_inclusion(index, size, parts[0], parts[2:], parts[1])
    changed = data.draw(st.integers(0, len(parts) - 1))
    parts[changed] = _flip(parts[changed], data.draw(st.integers(0, 255)))
    assert not verify_inclusion(index, size, parts[0], parts[2:], parts[1])


@given(st.data())
def test_a_consistency_proof_with_one_bit_changed_anywhere_is_refused(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 300))
    old = data.draw(st.integers(1, new - 1))
    parts = [_mth(0, old), _mth(0, new), *_subproof(old, 0, new, True)]
    assert verify_consistency(old, new, parts[0], parts[1], parts[2:])
    changed = data.draw(st.integers(0, len(parts) - 1))
    parts[changed] = _flip(parts[changed], data.draw(st.integers(0, 255)))
    assert not verify_consistency(old, new, parts[0], parts[1], parts[2:])


def test_a_proof_that_climbs_above_the_root_is_refused() -> None:
    for size in range(1, 20):
        above = node_hash(LEAVES[99], _mth(0, size))
        assert not verify_inclusion(0, size, LEAVES[0], [*_path(0, 0, size), LEAVES[99]], above)
        if size > 1:
            proof = [*_subproof(1, 0, size, True), LEAVES[99]]
            assert not verify_consistency(1, size, LEAVES[0], node_hash(_mth(0, size), LEAVES[99]), proof)


def test_a_proof_that_stops_below_the_root_is_refused() -> None:
    assert not verify_inclusion(0, 8, LEAVES[0], _path(0, 0, 4), _mth(0, 4))
    assert not verify_consistency(2, 8, _mth(0, 2), _mth(0, 4), _subproof(2, 0, 4, True))


def test_hashes_of_another_length_are_refused_although_their_bytes_are_right() -> None:
    left, right = _mth(0, 2), LEAVES[2]
    assert verify_inclusion(2, 3, right, [left], _mth(0, 3))
    assert not verify_inclusion(2, 3, left[31:] + right, [left[:31]], _mth(0, 3))
    assert verify_consistency(2, 3, left, _mth(0, 3), [right])
    assert not verify_consistency(2, 3, left[:31], _mth(0, 3), [left[31:] + right])
    assert not verify_inclusion(0, 1, b"short", [], b"short")


def test_a_rewritten_record_breaks_consistency_with_every_tree_that_had_it() -> None:
    rewritten = [*LEAVES[:5], leaf_hash(b"rewritten"), *LEAVES[6:20]]

    def at(level: int, index: int) -> bytes:
        return root_of(rewritten[index << level : (index + 1) << level])

    for old in range(1, 20):
        proof = consistency_proof(old, 20, at)
        assert verify_consistency(old, 20, _mth(0, old), root_of(rewritten), proof) == (old <= 5)


def test_trees_of_one_size_are_consistent_only_when_equal() -> None:
    assert verify_consistency(5, 5, _mth(0, 5), _mth(0, 5), [])
    assert not verify_consistency(5, 5, _mth(0, 5), _mth(0, 6), [])
    assert not verify_consistency(5, 5, _mth(0, 5), _mth(0, 5), [LEAVES[0]])


def test_the_empty_tree_has_one_root_and_begins_every_tree() -> None:
    assert verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    assert verify_consistency(0, 7, EMPTY_ROOT, _mth(0, 7), [])
    assert not verify_consistency(0, 0, LEAVES[0], LEAVES[0], [])
    assert not verify_consistency(0, 7, LEAVES[0], _mth(0, 7), [])
    assert not verify_consistency(0, 7, EMPTY_ROOT, _mth(0, 7), [LEAVES[0]])


Hashes = st.binary(max_size=40) | st.sampled_from(LEAVES)


@given(Garbage, Garbage, Hashes, st.lists(Hashes, max_size=70), Hashes)
def test_garbage_is_refused_as_an_inclusion_proof(
    index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes
) -> None:
    accepted = verify_inclusion(index, size, leaf, proof, root)
    assert accepted == ((index, size, proof) == (0, 1, []) and leaf == root and len(leaf) == 32)


@given(Garbage, Garbage, Hashes, Hashes, st.lists(Hashes, min_size=1, max_size=70))
def test_garbage_is_refused_as_a_consistency_proof(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: list[bytes]
) -> None:
    assert not verify_consistency(old, new, old_root, new_root, proof)


def test_sizes_beyond_the_limit_are_refused() -> None:
    at = _alike()
    size = MAX_SIZE + 1
    proof = [at(level, 0) for level in range(63)]
    assert not verify_inclusion(0, size, at(0, 0), proof, at(63, 0))
    assert not verify_consistency(1, size, at(0, 0), at(63, 0), proof)


# --- the frontier ---


def test_a_frontier_survives_its_bytes_at_every_size() -> None:
    frontier = Frontier()
    for leaf in LEAVES:
        again = Frontier.from_bytes(frontier.to_bytes())
        assert (again.size, again.root()) == (frontier.size, frontier.root())
        again.append(leaf)
        frontier.append(leaf)
        assert again.root() == frontier.root()


def test_a_frontier_is_found_again_in_a_tree_that_exists() -> None:
    grown = Frontier()
    for size in SIZES:
        assert Frontier.at(size, _at).to_bytes() == grown.to_bytes()
        grown.append(LEAVES[size])


def test_appending_answers_the_subtrees_that_are_complete_now() -> None:
    frontier = Frontier()
    for number, leaf in enumerate(LEAVES[:64]):
        completed = frontier.append(leaf)
        levels = [level for level in range(7) if (number + 1) % (1 << level) == 0]
        assert completed == [_at(level, number >> level) for level in levels]


def test_a_leaf_that_is_not_a_hash_is_not_added() -> None:
    frontier = Frontier()
    with pytest.raises(ValueError, match="32 bytes"):
        frontier.append(b"short")
    assert frontier.size == 0


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:5]])
def test_bytes_of_another_length_are_no_frontier(change: Callable[[bytes], bytes]) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:7]:
        frontier.append(leaf)
    with pytest.raises(BadFrontier):
        Frontier.from_bytes(change(frontier.to_bytes()))


def test_a_size_that_needs_other_hashes_is_no_frontier() -> None:
    frontier = Frontier()
    for leaf in LEAVES[:7]:
        frontier.append(leaf)
    with pytest.raises(BadFrontier):
        Frontier.from_bytes((8).to_bytes(8, "big") + frontier.to_bytes()[8:])
    with pytest.raises(BadFrontier):
        Frontier.from_bytes((2**63).to_bytes(8, "big") + LEAVES[0])
