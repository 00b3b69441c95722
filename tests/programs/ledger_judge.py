"""Says of logs and receipts that Caracal wrote whether they are sound, with code that nobody of Caracal wrote: pymerkle for the tree,
cryptography for the signatures.

    ledger_judge.py CASE...

Each CASE is a directory: `keys` (verifier keys, one a line), and either `receipt` (a c2sp.org/tlog-proof), or `log` (the files of a
c2sp.org/tlog-tiles log; the tiles of hashes are not read, the tree is made of the records), or `url` (where it is served), with,
perhaps, `kept` (a checkpoint that the judge remembers). One JSON line is printed for each."""

import base64
import hashlib
import json
import pathlib
import sys
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pymerkle import InclusionProof, InmemoryTree, InvalidProof, verify_consistency, verify_inclusion
from pymerkle.hasher import MerkleHasher

WIDTH = 256


class Unsound(Exception):
    """What is not as it must be."""


def must(truth, why):
    if not truth:
        raise Unsound(why)


def decode(text):
    return base64.b64decode(text, validate=True)


def read_keys(case):
    """The log's keys by name and id; the key of the host's chain is for other signatures."""
    keys = {}
    for line in (case / "keys").read_text().split("\n"):
        if not line:
            continue
        name, said, text = line.split("+", 2)
        if name.endswith("/host"):
            continue
        raw = decode(text)
        if raw[0] == 2:
            key, own = load_der_public_key(raw[1:]), hashlib.sha256(raw[1:]).digest()[:4]
            must(isinstance(key, ec.EllipticCurvePublicKey), "not an ECDSA key")
        else:
            must(raw[0] == 1, "a key of an unknown type")
            key = ed25519.Ed25519PublicKey.from_public_bytes(raw[1:])
            own = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
        must(said == own.hex(), "a key's id is not its own")
        keys[name, own] = key
    must(len(keys) == 2, "not an ECDSA and an Ed25519 key")
    return keys


def checkpoint(case, note):
    """The size and the root that both keys signed."""
    keys = read_keys(case)
    text, signatures = note.split("\n\n", 1)
    text += "\n"
    must(signatures.endswith("\n"), "the last line has no end")
    missing = set(keys)
    for line in signatures[:-1].split("\n"):
        dash, name, blob = line.split(" ")
        must(dash == "\u2014", "a line is no signature")
        blob = decode(blob)
        key = keys.get((name, blob[:4]))
        if key is None:
            continue
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(blob[4:], text.encode())
        else:
            key.verify(blob[4:], text.encode(), ec.ECDSA(SHA256()))
        missing.discard((name, blob[:4]))
    must(not missing, "not both keys signed")
    origin, size, root, end = text.split("\n")
    must(end == "" and {name for name, _ in keys} == {origin}, "not a checkpoint of this log")
    must(str(int(size)) == size, "a size is a number")
    return int(size), decode(root)


def read(case, name):
    """A file of the case's log."""
    if not (case / "url").exists():
        return (case / "log" / name).read_bytes()
    with urllib.request.urlopen(f"{(case / 'url').read_text().strip()}/{name}", timeout=60) as answer:
        return answer.read()


def records(case, size):
    for n in range((size + WIDTH - 1) // WIDTH):
        width = min(WIDTH, size - n * WIDTH)
        must(n < 1000, "the judge reads small logs")
        partial = f".p/{width}" if width < WIDTH else ""
        data, count = read(case, f"tile/entries/{n:03}{partial}"), 0
        while data:
            length = int.from_bytes(data[:2], "big")
            must(len(data) >= 2 + length, "a bundle ends early")
            yield data[2 : 2 + length]
            data, count = data[2 + length :], count + 1
        must(count == width, "a bundle has another number of records")


def judge_log(case):
    size, root = checkpoint(case, read(case, "checkpoint").decode())
    tree = InmemoryTree(algorithm="sha256")
    for record in records(case, size):
        tree.append_entry(record)
    must(tree.get_size() == size and tree.get_root() == root, "the records do not give the root")
    if (case / "kept").exists():
        before, state = checkpoint(case, (case / "kept").read_text())
        must(before <= size, f"the log had {before} records, now it has {size}")
        verify_consistency(state, root, tree.prove_consistency(before, size), prior_size=before, later_size=size)


def sides(index, size):
    """For each hash of an inclusion path, whether it stands to the left: pymerkle's rule, leaf first."""
    first, end, found = 0, size, []
    while end - first > 1:
        half = 1 << ((end - first - 1).bit_length() - 1)
        found.append(int(index >= first + half))
        first, end = (first + half, end) if index >= first + half else (first, first + half)
    return found[::-1] + [0]


def judge_receipt(case):
    proof, note = (case / "receipt").read_text().split("\n\n", 1)
    magic, extra, index, *path = proof.split("\n")
    must(magic == "c2sp.org/tlog-proof@v1", "not a tlog-proof")
    must(extra.startswith("extra ") and index.startswith("index "), "no record or no index")
    record, index = decode(extra[6:]), int(index[6:])
    size, root = checkpoint(case, note)
    must(0 <= index < size, "the index is not in the log")
    leaf = MerkleHasher("sha256").hash_buff(record)
    proof = InclusionProof("sha256", True, size, index + 1, sides(index, size), [leaf] + [decode(one) for one in path])
    verify_inclusion(leaf, root, proof, index=index + 1, size=size, algorithm="sha256")


def main():
    for name in sys.argv[1:]:
        case = pathlib.Path(name)
        said = {"case": case.name, "accepts": True}
        try:
            (judge_receipt if (case / "receipt").exists() else judge_log)(case)
        except (Unsound, InvalidProof, InvalidSignature, ValueError, OSError, LookupError) as error:
            said = {"case": case.name, "accepts": False, "why": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(said), flush=True)


main()
