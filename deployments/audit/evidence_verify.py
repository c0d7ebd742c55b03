"""Checks an evidence package of Gatehouse with the Python standard library alone (3.9 or newer, no network).

    python3 verify.py [PACKAGE] [--key VKEY]

1. `MANIFEST` names every file of the package, and each has its SHA-256.
2. `checkpoint` is a signed note (C2SP signed-note): every signature in it is good (Ed25519, RFC 8032), by the keys in
   `log.vkey`, of which the first is the log's. With `--key` that must be the given one.
3. Every record of `evidence.json` has the leaf hash it claims (RFC 6962), and its proof `proofs/<index>.tlog-proof`
   (C2SP tlog-proof) leads from that leaf to the root in the checkpoint.

Prints a line for each record and a verdict; the status is 0 when all of it holds, else 1. Without `--key` this shows
only that the package agrees with itself: anybody can make a log of their own. The key must come from somewhere else
than the package, and so should this file. `report.md` and `report.html` are for reading; the evidence is the records.
"""

# No `X | None` and no newer syntax here: it must run on Python 3.9.
import argparse
import base64
import hashlib
import json
import os
import sys
from typing import Any

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
SCHEMA = "gatehouse.evidence/1"
FILES = ("checkpoint", "evidence.json", "log.vkey", "report.html", "report.md", "verify.py")
ED25519, COSIGNATURE_V1 = 0x01, 0x04
MAX_PROOF_HASHES = 63


class Broken(Exception):
    """The package does not show what it claims."""


# --- Ed25519: RFC 8032 section 5.1 -------------------------------------------------------------------------------

Point = tuple[int, int, int, int]  # (X, Y, Z, T) with x = X/Z, y = Y/Z, x*y = T/Z
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
NEUTRAL: Point = (0, 1, 1, 0)


def add(a: Point, b: Point) -> Point:
    """The sum of two points (section 5.1.4)."""
    low, high = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    cross, both = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = high - low, both - cross, both + cross, high + low
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar: int, point: Point) -> Point:
    """The point added to itself; everything here is public, so time does not matter."""
    result = NEUTRAL
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def decode_point(data: bytes) -> Point:
    """The point in 32 bytes (section 5.1.3), or `Broken`."""
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= P:
        raise Broken("a point of a signature or key has no canonical form")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P or (x == 0 and sign):
        raise Broken("a point of a signature or key is not on the curve")
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


def encode_point(point: Point) -> bytes:
    """The 32 bytes of a point (section 5.1.2)."""
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE = decode_point(bytes([0x58]) + bytes([0x66]) * 31)


def is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when `signature` is the key's over `message` (section 5.1.7, the equation without the cofactor)."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= ORDER:
        return False
    try:
        key = decode_point(public_key)
    except Broken:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % ORDER
    minus_key = (P - key[0], key[1], key[2], P - key[3])
    return encode_point(add(multiply(s, BASE), multiply(k, minus_key))) == signature[:32]


# --- spelling ----------------------------------------------------------------------------------------------------


def decode64(text: str, what: str) -> bytes:
    """The bytes of base64 in its one spelling, or `Broken`."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise Broken(what + " is not base64") from None
    if base64.b64encode(data).decode("ascii") != text:
        raise Broken(what + " is not base64 in its one spelling")
    return data


def decode_number(text: str, what: str) -> int:
    """The number in decimal digits in its one spelling, or `Broken`."""
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or str(int(text)) != text or int(text) >= 2**63:
        raise Broken(what + " is not a decimal number up to 2**63 - 1")
    return int(text)


def read(package: str, path: str) -> bytes:
    """A file of the package, or `Broken`."""
    try:
        with open(os.path.join(package, *path.split("/")), "rb") as file:
            return file.read()
    except OSError as error:
        raise Broken(path + " cannot be read: " + (error.strerror or type(error).__name__)) from None


def read_text(package: str, path: str) -> str:
    """A file of the package as UTF-8, or `Broken`."""
    try:
        return read(package, path).decode("utf-8")
    except UnicodeDecodeError:
        raise Broken(path + " is not UTF-8") from None


# --- 1. MANIFEST -------------------------------------------------------------------------------------------------


def check_manifest(package: str) -> set[str]:
    """The paths of the package's files: those that `MANIFEST` names with their SHA-256, and no others; or `Broken`."""
    listed: dict[str, str] = {}
    lines = read_text(package, "MANIFEST").split("\n")
    if lines.pop() != "":
        raise Broken("MANIFEST does not end with a line")
    for line in lines:
        digest, gap, path = line.partition("  ")
        if len(digest) != 64 or not gap or path in listed:
            raise Broken("MANIFEST is not lines of a SHA-256, two spaces and a path")
        listed[path] = digest
    found = {
        os.path.relpath(os.path.join(folder, name), package).replace(os.sep, "/")
        for folder, _, names in os.walk(package)
        for name in names
    }
    found.discard("MANIFEST")
    for path in sorted(found ^ set(listed)):
        raise Broken(path + (" is not in MANIFEST" if path in found else " is missing"))
    for path in FILES:
        if path not in listed:
            raise Broken(f"{path} is missing")
    for path, digest in sorted(listed.items()):
        if hashlib.sha256(read(package, path)).hexdigest() != digest:
            raise Broken(f"{path} was changed: it does not have the SHA-256 in MANIFEST")
    return found


# --- 2. checkpoint -----------------------------------------------------------------------------------------------


class Key:
    """A verifier key: `name+key id+base64(algorithm || public key)` (C2SP signed-note)."""

    def __init__(self, text: str) -> None:
        parts = text.split("+", 2)
        if len(parts) != 3 or not parts[0]:
            raise Broken("a key is not name+id+base64")
        material = decode64(parts[2], "a key")
        if len(material) != 33 or material[0] not in (ED25519, COSIGNATURE_V1):
            raise Broken("the key of " + parts[0] + " is not of a type known here")
        self.text, self.name, self.algorithm, self.public_key = text, parts[0], material[0], material[1:]
        self.key_id = hashlib.sha256(parts[0].encode() + b"\n" + material).digest()[:4]
        if self.key_id.hex() != parts[1]:
            raise Broken("the key of " + parts[0] + " does not have its id")


class Checkpoint:
    """What the log signed: its name, the number of its records and the root over them. `witnesses` cosigned it."""

    def __init__(self, origin: str, size: int, root: bytes, witnesses: list[str]) -> None:
        self.origin, self.size, self.root, self.witnesses = origin, size, root, witnesses


def check_checkpoint(note: bytes, keys: list[Key]) -> Checkpoint:
    """The checkpoint in a note that the first key signed, and only known keys, each once and well; or `Broken`."""
    try:
        text, gap, lines = note.decode("utf-8").rpartition("\n\n")
    except UnicodeDecodeError:
        raise Broken("checkpoint is not UTF-8") from None
    text += "\n"
    if not gap or not lines.endswith("\n"):
        raise Broken("checkpoint is not a text, an empty line and signatures")
    signers: list[Key] = []
    witnesses: list[str] = []
    for line in lines[:-1].split("\n"):
        mark, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        data = decode64(encoded, "a signature of the checkpoint")
        key = next((key for key in keys if (key.name, key.key_id) == (name, data[:4])), None)
        if mark != "\u2014" or key is None or key in signers:
            raise Broken("checkpoint has a signature by a key that is not known, or two by one key")
        message, value = text.encode(), data[4:]
        if key.algorithm == COSIGNATURE_V1:
            seconds, value = int.from_bytes(value[:8], "big"), value[8:]
            message = b"cosignature/v1\ntime " + str(seconds).encode() + b"\n" + message
            witnesses.append(name + " at " + str(seconds) + " s since 1970")
        if not is_signed(key.public_key, message, value):
            raise Broken("the checkpoint's signature by " + name + " is not good")
        signers.append(key)
    if keys[0] not in signers:
        raise Broken("the log did not sign the checkpoint")
    fields = text[:-1].split("\n")
    if len(fields) < 3 or not all(fields):
        raise Broken("checkpoint is not a name, a size and a root")
    root = decode64(fields[2], "the checkpoint's root")
    if fields[0] != keys[0].name:
        raise Broken("checkpoint is of another log than its key")
    if len(root) != 32:
        raise Broken("the checkpoint's root is not a SHA-256")
    return Checkpoint(fields[0], decode_number(fields[1], "the checkpoint's size"), root, witnesses)


# --- 3. records --------------------------------------------------------------------------------------------------


def root_of(index: int, size: int, leaf: bytes, proof: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 section 2.1.3.2), or `Broken`."""
    if not 0 <= index < size:
        raise Broken("the record is not in the checkpoint's tree")
    node, last, digest = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Broken("the proof is too long")
        if node & 1 or node == last:
            digest = hashlib.sha256(b"\x01" + sibling + digest).digest()
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = hashlib.sha256(b"\x01" + digest + sibling).digest()
        node, last = node >> 1, last >> 1
    if last:
        raise Broken("the proof is too short")
    return digest


def check_proof(proof: bytes, index: int, leaf: bytes, note: bytes, checkpoint: Checkpoint) -> None:
    """`Broken` unless the tlog-proof shows that the leaf has this place in the tree of exactly this checkpoint."""
    head, gap, own_note = proof.partition(b"\n\n")
    if not gap or own_note != note:
        raise Broken("its proof is not under the package's checkpoint")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Broken("its proof is not ASCII") from None
    if lines[:2] != [PROOF_HEADER, "index " + str(index)]:
        raise Broken("its proof is about another record")
    hashes = [decode64(line, "a hash of its proof") for line in lines[2:]]
    if len(hashes) > MAX_PROOF_HASHES or any(len(found) != 32 for found in hashes):
        raise Broken("its proof is not made of SHA-256 hashes")
    if root_of(index, checkpoint.size, leaf, hashes) != checkpoint.root:
        raise Broken("its proof does not lead to the checkpoint's root")


def check_record(package: str, found: Any, note: bytes, checkpoint: Checkpoint) -> tuple[int, str]:
    """Index and event name of a record that is in the log; `Broken`."""
    try:
        index, leaf, entry = found["index"], bytes.fromhex(found["leaf"]), found["entry"].encode("utf-8")
        record = json.loads(entry)
        sequence, name = record["sequence"], record["name"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise Broken("it is not a record") from None
    if type(index) is not int or type(sequence) is not int or not isinstance(name, str):
        raise Broken("it is not a record")
    if sequence != index:
        raise Broken(f"it says that it is record {sequence}")
    if found["leaf"] != leaf.hex() or hashlib.sha256(b"\x00" + entry).digest() != leaf:
        raise Broken("it does not have the leaf hash that is claimed")
    check_proof(read(package, proof_path(index)), index, leaf, note, checkpoint)
    return index, name


def proof_path(index: int) -> str:
    """Where the proof of a record lies in the package."""
    return f"proofs/{index}.tlog-proof"


def read_records(package: str) -> list[Any]:
    """What `evidence.json` has as records, unchecked; or `Broken`."""
    try:
        evidence: Any = json.loads(read_text(package, "evidence.json"))
        schema, records = evidence["schema"], evidence["records"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise Broken("evidence.json is not an object with schema and records") from None
    if schema != SCHEMA or not isinstance(records, list) or not records:
        raise Broken(f"evidence.json is not {SCHEMA} with at least one record")
    found: list[Any] = [*records]
    return found


# --- all of it ---------------------------------------------------------------------------------------------------


def printable(value: object) -> str:
    """A value without characters that could do something to a terminal, or that it cannot show."""
    text = str(value).encode("ascii", "backslashreplace").decode("ascii")
    return "".join(char if char.isprintable() else "?" for char in text)


def check(package: str, pinned: str) -> bool:
    """Print what holds and what does not; True when all of it holds. `pinned` is a verifier key, or empty."""
    try:
        files = check_manifest(package)
        print(f"OK      MANIFEST: {len(files)} files")
        keys = [Key(line) for line in read_text(package, "log.vkey").split("\n") if line]
        if not keys or keys[0].algorithm != ED25519:
            raise Broken("log.vkey does not begin with a log's key")
        if pinned and pinned != keys[0].text:
            raise Broken("log.vkey does not begin with the key that was given with --key")
        note = read(package, "checkpoint")
        checkpoint = check_checkpoint(note, keys)
        print(f"OK      checkpoint: {printable(checkpoint.origin)}, {checkpoint.size} records")
        for witness in checkpoint.witnesses:
            print(f"OK      cosigned by {printable(witness)}")
        records = read_records(package)
    except Broken as error:
        print(f"BROKEN  {printable(error)}")
        return False
    broken, last = 0, -1
    for place, found in enumerate(records):
        try:
            index, name = check_record(package, found, note, checkpoint)
            if index <= last:
                raise Broken("the records are not in order")
            last = index
            files.discard(proof_path(index))
            print(f"OK      record {index}: {printable(name)}")
        except Broken as error:
            broken += 1
            print(f"BROKEN  record number {place} of evidence.json: {printable(error)}")
    for path in sorted(files - set(FILES)):
        broken += 1
        print(f"BROKEN  {printable(path)} belongs to no record")
    if not broken:
        print(f"All {len(records)} records are in the log {printable(checkpoint.origin)}.")
        print(f"The log's key: {printable(keys[0].text)}")
        if not pinned:
            print(
                "It came with the package, so this shows only that the package agrees with itself: pin it with --key."
            )
    return not broken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check an evidence package of Gatehouse.")
    parser.add_argument("package", nargs="?", default=os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--key", default="", help="the log's verifier key, from somewhere else than the package")
    arguments = parser.parse_args()
    sys.exit(0 if check(arguments.package, arguments.key) else 1)
