"""The key box, done by hand as docs/format.md and the standards say: nothing but primitives here.

It holds what is stored for ten years to the words of the page, whatever a later library makes of them.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import struct
from collections.abc import Callable

import pytest
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from puller.errors import DamagedData, UnsupportedFormat
from puller.repository import repository as repositories
from puller.repository.keys import key_box
from puller.repository.keys.key_slots import Password
from puller.repository.keys.keyring import KeyRing, derive
from tests.lab.memory import MemoryStore

MASTER, REPOSITORY, PACK = bytes(range(32)), b"r" * 16, b"p" * 16
INFO = b"puller v1 pack key" + REPOSITORY + PACK
SUITE_ID = b"HPKE" + struct.pack(">HHH", 0x647A, 0x0001, 0x0002)


def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
    """LabeledExtract of RFC 9180, section 4."""
    return hmac.digest(salt, b"HPKE-v1" + SUITE_ID + label + ikm, "sha256")


def expand(prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand, of up to 32 bytes."""
    labeled = struct.pack(">H", length) + b"HPKE-v1" + SUITE_ID + label + info
    return hmac.digest(prk, labeled + b"\x01", "sha256")[:length]


def decapsulate(seed: bytes, enc: bytes) -> bytes:
    """The shared secret of MLKEM768-X25519."""
    expanded = hashlib.shake_256(seed).digest(96)
    private = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
    of_mlkem = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(enc[:1088])
    of_x25519 = private.exchange(x25519.X25519PublicKey.from_public_bytes(enc[1088:]))
    public = private.public_key().public_bytes_raw()
    return hashlib.sha3_256(of_mlkem + of_x25519 + enc[1088:] + public + rb"\.//^\ "[:6]).digest()


def open_by_hand(seed: bytes, box: bytes, info: bytes) -> bytes:
    """RFC 9180's key schedule in base mode, and its one and only message."""
    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(decapsulate(seed, box[:1120]), b"secret", b"")
    key, nonce = expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, box[1120:], None)


def test_a_key_box_is_what_the_standards_say() -> None:
    ring = KeyRing.from_master(REPOSITORY, REPOSITORY, MASTER)
    pack_key, box = ring.new_data_key(PACK)
    assert (len(pack_key), len(box)) == (32, 1168)
    assert open_by_hand(derive(MASTER, REPOSITORY, b"puller v1 data"), box, INFO) == pack_key
    assert ring.open_data_key(PACK, box) == pack_key


def test_the_public_key_is_that_of_the_drafts_test_vector() -> None:
    """draft-connolly-cfrg-xwing-kem, appendix C, the first vector's ``sk`` and ``pk``."""
    seed = bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
    public = key_box.public_key(seed)
    assert len(public) == key_box.PUBLIC_KEY == 1216
    assert public.hex().startswith("e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5b19cfc3d")
    assert hashlib.sha256(public).hexdigest() == DRAFT_PUBLIC


DRAFT_PUBLIC = "2e816deebcd76c5c80d0cd2d174478871658e8e2ff42bc9d4a6e486372e856bb"


def test_both_halves_are_needed() -> None:
    """Whoever has broken one of the two schemes has the other one before them."""
    seed = derive(MASTER, REPOSITORY, b"puller v1 data")
    expanded = hashlib.shake_256(seed).digest(96)
    box = key_box.seal(key_box.public_key(seed), bytes(32), INFO)
    for halves in ((bytes(64), expanded[64:]), (expanded[:64], bytes(31) + b"\x40")):
        private = hpke.MLKEM768X25519PrivateKey(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(halves[0]),
            x25519.X25519PrivateKey.from_private_bytes(halves[1]),
        )
        with pytest.raises(InvalidTag):
            key_box._SUITE.decrypt(box, private, INFO)


def test_a_key_box_opens_in_its_place_only() -> None:
    ring = KeyRing.from_master(REPOSITORY, REPOSITORY, MASTER)
    _, box = ring.new_data_key(PACK)
    other = KeyRing.from_master(b"R" * 16, b"R" * 16, MASTER)
    for keys, pack in (
        (ring, b"P" * 16),
        (other, PACK),
        (KeyRing.from_master(REPOSITORY, REPOSITORY, b"m" * 32), PACK),
    ):
        with pytest.raises(DamagedData, match="key box of pack"):
            keys.open_data_key(pack, box)


def test_damaged_key_boxes_raise_nothing_but_damage() -> None:
    ring = KeyRing.from_master(REPOSITORY, REPOSITORY, MASTER)
    _, box = ring.new_data_key(PACK)
    rng = random.Random(7)
    broken = [b"", bytes(1168), box[:-1], box + b"\0", box[:1088] + bytes(32) + box[1120:], b"\xff" * 1168]
    for _ in range(200):
        at = rng.randrange(len(box))
        broken.append(box[:at] + bytes([box[at] ^ 1 << rng.randrange(8)]) + box[at + 1 :])
    for text in broken:
        with pytest.raises(DamagedData):
            ring.open_data_key(PACK, text)


def _lacks_mlkem(*_: object) -> None:
    raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this backend.")


def test_a_library_without_ml_kem_is_named_before_anything_is_put(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, store = KeyRing.from_master(REPOSITORY, REPOSITORY, MASTER).backup_only(), MemoryStore()
    monkeypatch.setattr(mlkem.MLKEM768PrivateKey, "from_seed_bytes", _lacks_mlkem)
    monkeypatch.setattr(mlkem.MLKEM768PublicKey, "from_public_bytes", _lacks_mlkem)
    uses: tuple[Callable[[], object], ...] = (
        lambda: repositories.create(store, Password("correct horse")),
        lambda: KeyRing.from_master(REPOSITORY, REPOSITORY, MASTER),
        lambda: KeyRing.from_backup_only(REPOSITORY, REPOSITORY, held),
    )
    for use in uses:
        with pytest.raises(UnsupportedFormat, match="no ML-KEM-768") as caught:
            use()
        assert "PyPI" in caught.value.advice
    assert not list(store.list(""))
