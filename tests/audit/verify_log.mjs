// A second verifier of exported logs, written from the specifications alone: RFC 6962 (tree), C2SP signed-note,
// tlog-checkpoint, tlog-cosignature, tlog-tiles and tlog-proof. It shares nothing with the Python one but the files.
//
//   node verify_log.mjs [--key VKEY]... [--quorum N] [--proof FILE]... EXPORT...
//
// One line of JSON for each export: {"path", "ok", "size", "checkpoints", "problems"}. Exit status: 0 all are good,
// 1 one is not, 2 usage. Needs Node 18 or newer and none of its packages.

import { createHash, createPublicKey, verify } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";

const ED25519 = 1;
const COSIGNATURE_V1 = 4;
const WIDTH = 256;
const HASH = 32;

class Bad extends Error {}

const sha256 = (...parts) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};

// --- RFC 6962 --------------------------------------------------------------------------------------------------------

const LEAF = Buffer.from([0]);
const NODE = Buffer.from([1]);
const leafHash = (entry) => sha256(LEAF, entry);
const nodeHash = (left, right) => sha256(NODE, left, right);

/** Hashes of complete subtrees by level, filled as leaves arrive: levels[l][i] covers leaves [i * 2^l, (i + 1) * 2^l). */
class Tree {
  levels = [[]];

  get size() {
    return this.levels[0].length;
  }

  add(leaf) {
    this.levels[0].push(leaf);
    for (let level = 0; this.levels[level].length % 2 === 0; level++) {
      const row = this.levels[level];
      if (this.levels.length === level + 1) this.levels.push([]);
      this.levels[level + 1].push(nodeHash(row[row.length - 2], row[row.length - 1]));
    }
  }

  /** MTH of the first `size` leaves, by the recursion of RFC 6962 section 2.1. */
  root(size) {
    return size === 0 ? sha256() : this.#range(0, size);
  }

  #range(begin, end) {
    const count = end - begin;
    if ((count & (count - 1)) === 0 && begin % count === 0) return this.levels[Math.log2(count)][begin / count];
    let split = 1;
    while (split * 2 < count) split *= 2;
    return nodeHash(this.#range(begin, begin + split), this.#range(begin + split, end));
  }
}

/** The root that a path leads to: the recursive definition of PATH in RFC 6962 section 2.1.1, read backwards. */
function rootFromPath(index, size, leaf, path) {
  if (size === 1) {
    if (path.length !== 0) throw new Bad("the path is too long");
    return leaf;
  }
  if (path.length === 0) throw new Bad("the path is too short");
  let split = 1;
  while (split * 2 < size) split *= 2;
  const sibling = path[path.length - 1];
  const rest = path.slice(0, -1);
  return index < split
    ? nodeHash(rootFromPath(index, split, leaf, rest), sibling)
    : nodeHash(sibling, rootFromPath(index - split, size - split, leaf, rest));
}

// --- spelling --------------------------------------------------------------------------------------------------------

function utf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Bad("not UTF-8");
  }
}

function base64(text) {
  const bytes = Buffer.from(text, "base64");
  if (bytes.toString("base64") !== text) throw new Bad("not base64");
  return bytes;
}

function decimal(text) {
  if (!/^(0|[1-9][0-9]{0,18})$/.test(text)) throw new Bad("not a decimal number");
  const number = Number(text);
  if (!Number.isSafeInteger(number)) throw new Bad("a number larger than this verifier counts");
  return number;
}

const isName = (name) => name.length > 0 && !/[+\u0000-\u001f\u007f]|\p{White_Space}/u.test(name);
const isText = (text) => text.endsWith("\n") && !/[\u0000-\u0009\u000b-\u001f]/.test(text);

// --- C2SP signed-note and tlog-cosignature ---------------------------------------------------------------------------

function parseKey(text) {
  const parts = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/su.exec(text);
  if (!parts || !isName(parts[1])) throw new Bad("not a verifier key");
  const material = base64(parts[3]);
  if (material.length !== 1 + 32 || ![ED25519, COSIGNATURE_V1].includes(material[0])) throw new Bad("an unknown key type");
  const id = sha256(parts[1], "\n", material).subarray(0, 4);
  if (id.toString("hex") !== parts[2]) throw new Bad("a key id that is not the key's");
  // SubjectPublicKeyInfo of Ed25519 (RFC 8410) is a fixed prefix and the 32 bytes.
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), material.subarray(1)]);
  return { name: parts[1], id, type: material[0], bytes: material, key: createPublicKey({ key: der, format: "der", type: "spki" }) };
}

function parseNote(bytes) {
  const whole = utf8(bytes);
  const gap = whole.lastIndexOf("\n\n");
  if (gap < 0 || !whole.endsWith("\n") || gap + 2 >= whole.length) throw new Bad("not a note");
  const text = whole.slice(0, gap + 1);
  if (!isText(text)) throw new Bad("a note's text has control characters");
  const signatures = whole.slice(gap + 2, -1).split("\n").map((line) => {
    const space = line.indexOf(" ", 2);
    if (!line.startsWith("\u2014 ") || space < 0) throw new Bad("a malformed signature line");
    const name = line.slice(2, space);
    const value = base64(line.slice(space + 1));
    if (!isName(name) || value.length <= 4) throw new Bad("a malformed signature line");
    return { name, id: value.subarray(0, 4), value: value.subarray(4) };
  });
  return { text, signatures };
}

const isBy = (signature, key) => signature.name === key.name && signature.id.equals(key.id);

function isGood(text, signature, key) {
  if (key.type === ED25519) return verify(null, Buffer.from(text), key.key, signature.value);
  if (signature.value.length !== 8 + 64) return false;
  const seconds = signature.value.readBigUInt64BE();
  if (seconds >= 1n << 63n) return false;
  const message = `cosignature/v1\ntime ${seconds}\n${text}`;
  return verify(null, Buffer.from(message), key.key, signature.value.subarray(8));
}

/** The checkpoint in a note that the log signed, with the number of good cosignatures. */
function openCheckpoint(bytes, keys) {
  const note = parseNote(bytes);
  const lines = note.text.slice(0, -1).split("\n");
  if (lines.length < 3 || lines.some((line) => line === "")) throw new Bad("not a checkpoint");
  const size = decimal(lines[1]);
  const root = base64(lines[2]);
  if (root.length !== HASH) throw new Bad("a root of the wrong length");
  let byLog = false;
  let witnesses = 0;
  for (const key of keys) {
    const own = note.signatures.filter((signature) => isBy(signature, key));
    if (own.some((signature) => !isGood(note.text, signature, key))) throw new Bad(`a bad signature of ${key.name}`);
    if (own.length === 0) continue;
    if (key.type === COSIGNATURE_V1) witnesses++;
    else if (key.name === lines[0]) byLog = true;
  }
  if (!byLog) throw new Bad("the log did not sign");
  return { size, root, witnesses };
}

// --- C2SP tlog-tiles -------------------------------------------------------------------------------------------------

function tilePath(level, index, width) {
  let digits = String(index);
  digits = digits.padStart(Math.ceil(digits.length / 3) * 3, "0");
  const groups = digits.match(/.{3}/g);
  const last = groups.pop();
  return `tile/${level}/${groups.map((group) => `x${group}/`).join("")}${last}${width === WIDTH ? "" : `.p/${width}`}`;
}

function parseTilePath(path) {
  const parts = /^tile\/(entries|[0-9]{1,2})\/((?:x[0-9]{3}\/)*[0-9]{3})(?:\.p\/([0-9]{1,3}))?$/.exec(path);
  if (!parts) return null;
  const level = parts[1] === "entries" ? "entries" : Number(parts[1]);
  const index = Number(parts[2].replaceAll(/[x/]/g, ""));
  const width = parts[3] === undefined ? WIDTH : Number(parts[3]);
  return width >= 1 && tilePath(level, index, width) === path ? { level, index, width } : null;
}

function parseBundle(bytes) {
  const entries = [];
  for (let at = 0; at < bytes.length; ) {
    if (at + 2 > bytes.length) throw new Bad("a bundle ends within a length");
    const end = at + 2 + bytes.readUInt16BE(at);
    if (end > bytes.length) throw new Bad("a bundle ends within an entry");
    entries.push(bytes.subarray(at + 2, end));
    at = end;
  }
  return entries;
}

function* filesUnder(root, folder) {
  for (const item of readdirSync(`${root}/${folder}`, { withFileTypes: true })) {
    const path = `${folder}/${item.name}`;
    if (item.isDirectory()) yield* filesUnder(root, path);
    else if (item.isFile()) yield path;
  }
}

// --- an export -------------------------------------------------------------------------------------------------------

class Export {
  problems = [];
  tree = new Tree();
  checkpoints = new Map();
  witnessed = 0;
  notes = 0;

  constructor(path, pinned) {
    this.path = path;
    this.keys = this.#chooseKeys(pinned);
  }

  run(quorum, proofs) {
    const newest = this.#readCheckpoints();
    const paths = proofs.map((file) => this.#readProof(file));
    if (newest === null) this.problems.push("there is no checkpoint to verify");
    else this.#readEntries(newest);
    for (const [size, root] of this.checkpoints) {
      if (size > this.tree.size) this.problems.push(`a checkpoint covers ${size} records, the export has ${this.tree.size}`);
      else if (!this.tree.root(size).equals(root)) this.problems.push(`the first ${size} records have another root`);
    }
    if (this.witnessed < quorum) this.problems.push(`${this.witnessed} of ${quorum} witnesses signed`);
    for (const proof of paths) if (proof !== null) this.#checkProof(proof);
    if (newest !== null) this.#checkTiles(newest);
    return { path: this.path, ok: this.problems.length === 0, size: this.tree.size, checkpoints: this.notes, problems: this.problems };
  }

  #attempt(what, action) {
    try {
      return action();
    } catch (error) {
      if (!(error instanceof Bad)) throw error;
      this.problems.push(`${what}: ${error.message}`);
      return null;
    }
  }

  #read(name) {
    const file = `${this.path}/${name}`;
    return existsSync(file) && statSync(file).isFile() ? readFileSync(file) : null;
  }

  /** Pinned keys, or those that lie with the log: of the log, and of witnesses, each for itself. */
  #chooseKeys(pinned) {
    const data = this.#read("log.vkey");
    const logIsPinned = pinned.some((key) => key.type === ED25519);
    const lying = (data === null || logIsPinned ? null : this.#attempt("log.vkey", () => this.#parseKeys(data))) ?? [];
    const witnesses = data === null || !logIsPinned ? lying : this.#witnessesOf(data);
    const choose = (type, others) => {
      const brought = pinned.filter((key) => key.type === type);
      return brought.length > 0 ? brought : others.filter((key) => key.type === type);
    };
    const log = choose(ED25519, lying);
    const others = choose(COSIGNATURE_V1, witnesses);
    // One public key counts once, under whatever names it comes, and a log is not its own witness.
    const seen = new Set();
    return [...log, ...others].filter((key) => {
      const bytes = key.bytes.subarray(1).toString("hex");
      return !seen.has(bytes) && seen.add(bytes);
    });
  }

  #parseKeys(data) {
    return utf8(data).split("\n").filter((line) => line !== "").map(parseKey);
  }

  #witnessesOf(data) {
    try {
      return this.#parseKeys(data);
    } catch (error) {
      if (error instanceof Bad) return [];
      throw error;
    }
  }

  #note(bytes, what) {
    this.notes++;
    return this.#attempt(what, () => {
      const found = openCheckpoint(bytes, this.keys);
      const known = this.checkpoints.get(found.size);
      if (known !== undefined && !known.equals(found.root)) throw new Bad(`two roots for ${found.size} records`);
      if (found.size === 0 && !found.root.equals(sha256())) throw new Bad("not the root of the empty tree");
      this.checkpoints.set(found.size, found.root);
      this.witnessed = Math.max(this.witnessed, found.witnesses);
      return found;
    });
  }

  /** Every note of the export; the largest size. */
  #readCheckpoints() {
    let newest = null;
    const names = ["checkpoint", "checkpoint.witnessed"];
    if (existsSync(`${this.path}/checkpoints`)) {
      names.push(...readdirSync(`${this.path}/checkpoints`).filter((name) => /^[0-9]{20}$/.test(name)).map((name) => `checkpoints/${name}`));
    }
    for (const name of names) {
      const bytes = this.#read(name);
      if (bytes === null) continue;
      const found = this.#note(bytes, name);
      if (found === null) continue;
      if (name.startsWith("checkpoints/") && Number(name.slice(12)) !== found.size) this.problems.push(`${name} has another size`);
      newest = Math.max(newest ?? 0, found.size);
    }
    return newest;
  }

  #readEntries(size) {
    this.#attempt("entries", () => {
      for (let first = 0; first < size; first += WIDTH) {
        const width = Math.min(size - first, WIDTH);
        const bytes = this.#read(tilePath("entries", first / WIDTH, width)) ?? this.#read(tilePath("entries", first / WIDTH, WIDTH));
        if (bytes === null) throw new Bad(`the bundle from ${first} on is missing`);
        const entries = parseBundle(bytes);
        if (entries.length < width) throw new Bad(`the bundle from ${first} on is too short`);
        for (const entry of entries.slice(0, width)) this.tree.add(leafHash(entry));
      }
    });
  }

  /** Every stored tile, as far as the entries reach, and every tile that the newest checkpoint needs. */
  #checkTiles(newest) {
    for (let level = 0; 256 ** level <= newest; level++) {
      const count = Math.floor(newest / 256 ** level);
      for (let index = 0; index * WIDTH < count; index++) {
        for (const kind of level === 0 ? ["entries", 0] : [level]) {
          const width = Math.min(count - index * WIDTH, WIDTH);
          const there = existsSync(`${this.path}/${tilePath(kind, index, width)}`) || existsSync(`${this.path}/${tilePath(kind, index, WIDTH)}`);
          if (!there) this.problems.push(`${tilePath(kind, index, width)} is missing`);
        }
      }
    }
    if (!existsSync(`${this.path}/tile`)) return;
    for (const path of filesUnder(this.path, "tile")) {
      const name = parseTilePath(path);
      if (name !== null) this.#attempt(path, () => this.#checkTile(name, this.#read(path)));
    }
  }

  #checkTile(name, bytes) {
    const level = name.level === "entries" ? 0 : name.level;
    const row = this.tree.levels[level * 8] ?? [];
    const expected = row.slice(name.index * WIDTH, name.index * WIDTH + name.width);
    if (expected.length === 0) return; // beyond the newest checkpoint: nobody vouches for it
    const hashes = name.level === "entries" ? parseBundle(bytes).map(leafHash) : chunks(bytes);
    if (hashes.length !== name.width) throw new Bad("the tile has another width");
    expected.forEach((hash, at) => {
      if (!hash.equals(hashes[at])) throw new Bad(`hash ${at} is not that of the entries`);
    });
  }

  // C2SP tlog-proof
  #readProof(file) {
    return this.#attempt(file, () => {
      const bytes = readFileSync(file);
      const gap = bytes.indexOf("\n\n");
      if (gap < 0) throw new Bad("not a proof");
      const lines = bytes.subarray(0, gap).toString("latin1").split("\n");
      if (lines.shift() !== "c2sp.org/tlog-proof@v1") throw new Bad("not a proof");
      if (lines[0]?.startsWith("extra ")) base64(lines.shift().slice(6));
      if (!lines[0]?.startsWith("index ")) throw new Bad("a proof without an index");
      const index = decimal(lines.shift().slice(6));
      const path = lines.map(base64);
      if (path.some((hash) => hash.length !== HASH)) throw new Bad("a hash of the wrong length");
      const checkpoint = bytes.subarray(gap + 2);
      const found = this.#note(checkpoint, file);
      return found === null ? null : { file, index, path, ...found };
    });
  }

  #checkProof(proof) {
    this.#attempt(proof.file, () => {
      if (proof.index >= proof.size) throw new Bad("the index is not in the tree");
      const leaf = this.tree.levels[0][proof.index];
      if (leaf === undefined) throw new Bad("the record is not in the export");
      if (!rootFromPath(proof.index, proof.size, leaf, proof.path).equals(proof.root)) throw new Bad("it leads to another root");
    });
  }
}

function chunks(bytes) {
  if (bytes.length % HASH !== 0) throw new Bad("a tile of the wrong length");
  return Array.from({ length: bytes.length / HASH }, (_, at) => bytes.subarray(at * HASH, (at + 1) * HASH));
}

// --- command line ----------------------------------------------------------------------------------------------------

const pinned = [];
const proofs = [];
const paths = [];
let quorum = null;
for (let words = process.argv.slice(2); words.length > 0; ) {
  const word = words.shift();
  if (word === "--key") pinned.push(parseKey(words.shift() ?? ""));
  else if (word === "--proof") proofs.push(words.shift());
  else if (word === "--quorum") quorum = decimal(words.shift() ?? "");
  else paths.push(word);
}
if (paths.length === 0) {
  console.error("usage: node verify_log.mjs [--key VKEY]... [--quorum N] [--proof FILE]... EXPORT...");
  process.exit(2);
}
let good = true;
const needed = quorum ?? pinned.filter((key) => key.type === COSIGNATURE_V1).length;
for (const path of paths) {
  const found = new Export(path, pinned).run(needed, proofs);
  good &&= found.ok;
  console.log(JSON.stringify(found));
}
process.exit(good ? 0 : 1);
