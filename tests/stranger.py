"""A restorer written from docs/format.md alone: it imports nothing of puller.

python tests/stranger.py FOLDER DOMAIN-UUID POINT DISK OUTPUT   (password in PULLER_PASSWORD)
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CHUNK, DATA, MAP = 65536, 1, 2


def hkdf(ikm: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(ikm)


def prefixed(content: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from("<H", content)
    return content[2 : 2 + length], content[2 + length :]


def column(planes: bytes, n: int) -> list[int]:
    return [int.from_bytes(planes[k::n], "little") for k in range(n)]


def references(content: bytes, p: int, n: int, width: int) -> Iterator[tuple[int, bytes, int]]:
    index, rest = column(content[16 * p : 16 * p + width * n], n), content[16 * p + width * n :]
    steps, slot = iter(column(rest, len(rest) // 2)), 0
    for pack, k in sorted((pack, k) for k, pack in enumerate(index) if pack):
        slot = (slot + next(steps)) % 65536
        yield k, content[16 * pack - 16 : 16 * pack], slot


class Stranger:
    def __init__(self, root: Path, password: str | None) -> None:
        self.root = root
        descriptor = json.loads((root / "repository.json").read_bytes())
        assert (descriptor["format"], descriptor["version"], descriptor["chunk_size"]) == ("puller", 1, CHUNK)
        self.repo = bytes.fromhex(descriptor["id"])
        self.family = bytes.fromhex(descriptor.get("family", descriptor["id"]))
        self.encrypted = descriptor["cipher"] == "aes-256-gcm"
        ikm = self._master(password) if self.encrypted else self.family
        infos = b"chunk id", b"metadata", b"data"
        self.id_key, self.meta_key, seed = (hkdf(ikm, self.family, b"puller v1 " + info) for info in infos)
        mlkem, x25519 = (both := hashlib.shake_256(seed).digest(96))[:64], both[64:]
        halves = MLKEM768PrivateKey.from_seed_bytes(mlkem), X25519PrivateKey.from_private_bytes(x25519)
        self.private = MLKEM768X25519PrivateKey(*halves)

    def _master(self, password: str | None) -> bytes:
        kdf = (slot := json.loads(next((self.root / "keys").iterdir()).read_bytes()))["kdf"]
        assert kdf["name"] == "argon2id"
        costs = {"iterations": kdf["iterations"], "lanes": kdf["lanes"], "memory_cost": kdf["memory_kib"]}
        key = Argon2id(salt=bytes.fromhex(kdf["salt"]), length=32, **costs).derive((password or "").encode())
        aad = b"puller slot" + self.repo + slot["role"].encode() + self.family * (self.family != self.repo)
        return AESGCM(key).decrypt(bytes.fromhex(slot["nonce"]), bytes.fromhex(slot["sealed"]), aad)

    def unseal(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        if self.encrypted:
            return AESGCM(self.meta_key).decrypt(nonce, sealed, aad)
        framed = struct.pack("<Q", len(aad)) + aad + nonce + sealed[:-16]
        assert blake3(framed, key=self.meta_key).digest(16) == sealed[-16:]
        return sealed[:-16]

    def point(self, uuid: str, point: str) -> Any:
        box = (self.root / (name := f"points/{uuid}/{point}")).read_bytes()
        assert box[:6] == b"PLRB\x01\x01"
        aad = b"puller box" + self.repo + box[:8] + name.encode()
        return json.loads(zstandard.decompress(self.unseal(box[8:20], box[20:], aad)))

    @cache  # noqa: B019 - for the life of the process
    def pack(self, kind: int, pack_id: bytes) -> tuple[bytes, bytes, bytes, list[int], list[Any]]:
        folder = self.root / ("packs" if kind == DATA else "maps") / pack_id.hex()[:2]
        body = max(folder.glob(pack_id.hex() + "*"), key=lambda path: int(path.suffix[1:] or 0)).read_bytes()
        trailer = body[-48:]
        magic, version, found, _, n, length, nonce, found_id = struct.unpack("<8sHBBII12s16s", trailer)
        assert (magic, version, found, found_id) == (b"PULLERPK", 1, kind, pack_id)
        footer = self.unseal(nonce, body[-48 - length : -48], b"puller footer" + self.repo + trailer)
        box, rest = prefixed(zstandard.decompress(footer))
        offsets = [0, *accumulate(struct.unpack_from(f"<{n}I", rest, 16 * n))]
        seals = self._origins(rest[21 * n :], n) if rest[21 * n :] else [(pack_id, box, k) for k in range(n)]
        return body, rest[: 16 * n], rest[20 * n :], offsets, seals

    def _origins(self, rest: bytes, n: int) -> list[tuple[bytes, bytes, int]]:
        packs: list[tuple[bytes, bytes]] = []
        (m,), rest = struct.unpack_from("<H", rest), rest[2:]
        while len(packs) < m:
            pack, (box, rest) = rest[:16], prefixed(rest[16:])
            packs.append((pack, box))
        numbers = struct.unpack(f"<{2 * n}H", rest)
        return [(*packs[place], slot) for place, slot in zip(numbers[:n], numbers[n:], strict=True)]

    @cache  # noqa: B019 - for the life of the process
    def pack_key(self, kind: int, pack_id: bytes, box: bytes) -> bytes:
        if kind == MAP:
            return hkdf(self.meta_key, pack_id, b"puller v1 map pack")
        suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        return suite.decrypt(box, self.private, b"puller v1 pack key" + self.family + pack_id)

    def slot(self, kind: int, pack_id: bytes, slot: int) -> bytes:
        body, ids, flags, offsets, seals = self.pack(kind, pack_id)
        stored, (origin, box, sealed_slot) = body[offsets[slot] : offsets[slot + 1]], seals[slot]
        if self.encrypted:
            aad = b"puller slot" + self.family + origin + (number := struct.pack("<I", sealed_slot))
            stored = AESGCM(self.pack_key(kind, origin, box)).decrypt(number + bytes(8), stored, aad)
        content = zstandard.decompress(stored) if flags[slot] & 1 else stored
        assert blake3(content, key=self.id_key).digest(16) == ids[16 * slot :][:16]
        return content

    def restore(self, uuid: str, point: str, disk: str, output: Path) -> None:
        record = next(item for item in self.point(uuid, point)["disks"] if item["disk"] == disk)
        root = self.slot(MAP, bytes.fromhex(record["root"]["pack"]), record["root"]["slot"])
        magic, p, size = struct.unpack_from("<4sIQ", root)
        assert magic == b"ROOT"
        with output.open("wb") as file:
            for page, pack, slot in references(root[16:], p, -(-size // (1024 * CHUNK)), 4):
                self._page(file, page, self.slot(MAP, pack, slot))
            file.truncate(size)

    def _page(self, file: Any, number: int, page: bytes) -> None:
        magic, p, c = struct.unpack_from("<4sHH", page)
        assert magic == b"PAGE"
        for chunk, pack, slot in references(page[8:], p, c, 2):
            file.seek((1024 * number + chunk) * CHUNK)
            file.write(self.slot(DATA, pack, slot))


if __name__ == "__main__":
    folder, uuid, point, disk, output = sys.argv[1:]
    Stranger(Path(folder), os.environ.get("PULLER_PASSWORD")).restore(uuid, point, disk, Path(output))
