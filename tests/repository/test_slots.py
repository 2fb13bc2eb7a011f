"""Key slots: who may do what, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from puller.errors import DamagedData, KeyNotHeld, UsageError, WrongKey
from puller.repository import repository as repositories
from puller.repository.keys import key_slots as slots
from puller.repository.keys.key_slots import BACKUP_ONLY, FULL, Kdf, KeyFile, Password
from puller.repository.repository import Repository
from puller.units import CHUNK, Extent, Kind
from puller.upkeep.keys import list_keys, remove_key
from tests.lab.feed import read_disk, store_disk
from tests.lab.memory import MemoryStore

FIRST = Password("correct horse")
FILE = KeyFile(b"0123456789abcdef" * 2)


@pytest.fixture
def repository() -> Repository:
    return repositories.create(MemoryStore(), FIRST)


def opened(repository: Repository, secret: slots.Secret) -> slots.Opened:
    return slots.open_slot(
        repository.store, repository.descriptor.id_bytes, repository.descriptor.id_bytes, secret
    )


def test_a_second_password_opens_the_same_data_and_the_first_can_go(repository: Repository) -> None:
    root, _ = store_disk(repository, b"guest" * 40000)
    first = opened(repository, FIRST)
    slots.add_slot(repository.store, first, Password("new"), FULL, "second")
    slots.remove_slot(repository.store, repository.descriptor.id_bytes, first.slot_id)
    assert (
        read_disk(repositories.open_repository(repository.store, Password("new")), root) == b"guest" * 40000
    )
    with pytest.raises(WrongKey):
        repositories.open_repository(repository.store, FIRST)


def test_a_password_costs_what_is_recommended() -> None:
    """RFC 9106's second recommendation. The repositories of the tests have lower costs: see conftest.py."""
    usual = Kdf(salt="")
    assert (usual.memory_kib, usual.iterations, usual.lanes) == (64 * 1024, 3, 4)


def test_a_key_file_opens_and_a_short_one_is_refused(repository: Repository) -> None:
    slots.add_slot(repository.store, opened(repository, FIRST), FILE, FULL, "file")
    assert repositories.open_repository(repository.store, FILE).keys == repository.keys
    with pytest.raises(UsageError, match="too short"):
        slots.add_slot(repository.store, opened(repository, FIRST), KeyFile(b"short"), FULL, "")
    with pytest.raises(UsageError, match="empty"):
        slots.add_slot(repository.store, opened(repository, FIRST), Password(""), FULL, "")


def test_backup_only_makes_deduplicated_incrementals_and_reads_nothing(repository: Repository) -> None:
    base, _ = store_disk(repository, b"a secret of the guest " * 9000)
    slots.add_slot(repository.store, opened(repository, FIRST), FILE, BACKUP_ONLY, "host 7")
    held = repositories.open_repository(repository.store, FILE)
    changed = b"b" * CHUNK + (b"a secret of the guest " * 9000)[CHUNK:]
    root, writer = store_disk(held, changed, base, [Extent(0, CHUNK, Kind.DATA)])
    assert writer.new_bytes == CHUNK
    copy, writer = store_disk(held, b"a secret of the guest " * 9000)
    assert writer.new_bytes == 0
    for address in (root, copy, base):
        with pytest.raises(KeyNotHeld):
            read_disk(held, address)
    with pytest.raises(KeyNotHeld):
        slots.add_slot(repository.store, opened(held, FILE), Password("more"), FULL, "")
    assert read_disk(repositories.open_repository(repository.store, FIRST), root) == changed


def test_what_a_backup_only_holder_has_opens_no_stored_chunk(repository: Repository) -> None:
    """Tried by hand: every key that can be had from the slot, on every sealed byte range of a pack."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from puller.repository.format.packname import PackKind
    from puller.repository.keys import key_box

    store_disk(repository, bytes(range(256)) * 2560)
    content = repository.keys.backup_only()
    keys = [content[at : at + 32] for at in range(0, len(content), 32)]
    held = repositories.Repository(
        repository.store,
        repository.descriptor,
        slots.Opened(
            "", BACKUP_ONLY, repository.descriptor.id_bytes, repository.descriptor.id_bytes, content
        ).ring(),
    )
    name = next(info.key for info in repository.objects() if info.key.startswith("packs/"))
    pack_id = bytes.fromhex(name.rsplit("/", 1)[1])
    pack = held.packs.open(PackKind.DATA, pack_id)
    body = repository.store.get(name)
    for key in [*keys, held.keys.map_key(pack_id)]:
        with pytest.raises(DamagedData):
            key_box.open_box(
                key, pack.footer.key_box, b"puller v1 pack key" + held.keys.repository_id + pack_id
            )
        with pytest.raises(InvalidTag):
            AESGCM(key).decrypt(bytes(12), pack.footer.key_box[1120:], None)
        for slot in range(pack.footer.count):
            start, end = (int(at) for at in pack.footer.offsets[slot : slot + 2])
            number = slot.to_bytes(4, "little")
            aad = b"puller slot" + held.keys.repository_id + pack_id + number
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt(number + bytes(8), body[start:end], aad)


def test_the_last_full_slot_stays(repository: Repository) -> None:
    first = opened(repository, FIRST)
    slots.add_slot(repository.store, first, FILE, BACKUP_ONLY, "")
    with pytest.raises(UsageError, match="no other key can read"):
        slots.remove_slot(repository.store, repository.descriptor.id_bytes, first.slot_id)
    with pytest.raises(UsageError, match="no key"):
        slots.remove_slot(repository.store, repository.descriptor.id_bytes, "f" * 16)
    assert [
        slot.role
        for _, slot in slots.list_slots(repository.store, repository.descriptor.id_bytes)
        if isinstance(slot, slots.KeySlot)
    ]


def test_a_slot_that_an_init_left_which_was_cut_off_is_no_key_of_this_repository(
    repository: Repository,
) -> None:
    """It would count as the last full key, so the real one could be removed, and no key would work any
    more."""
    unfinished = repositories.create(MemoryStore(), FILE)
    for info in unfinished.store.list("keys/"):
        repository.store.put(info.key, unfinished.store.get(info.key))
    (key,) = list_keys(repository, FIRST)
    assert key.opened
    with pytest.raises(UsageError, match="no other key can read"):
        remove_key(repository, key.key)
    with pytest.raises(WrongKey):
        opened(repository, FILE)


def test_a_slot_that_an_init_left_does_not_stand_in_the_way_of_one_without_encryption() -> None:
    unfinished = repositories.create(MemoryStore(), FILE).store
    unfinished.delete(["repository.json"])
    plain = repositories.create(unfinished, None)
    assert repositories.open_repository(unfinished, None).id == plain.id


def test_damaged_slots(repository: Repository) -> None:
    name = next(info.key for info in repository.objects() if info.key.startswith("keys/"))
    slot = msgspec.json.decode(repository.store.get(name))
    repository.store.put("keys/" + "0" * 16, b"garbage")
    assert opened(repository, FIRST).role == FULL
    greedy = slot | {"kdf": slot["kdf"] | {"memory_kib": 1 << 40}}
    for broken in (
        greedy,
        slot | {"sealed": "zz"},
        slot | {"role": "admin"},
        slot | {"kdf": slot["kdf"] | {"lanes": 0}},
    ):
        repository.store.put(name, msgspec.json.encode(broken))
        with pytest.raises((DamagedData, WrongKey)):
            opened(repository, FIRST)


def test_a_descriptor_that_was_turned_to_plain_is_refused(repository: Repository) -> None:
    plain = msgspec.structs.replace(repository.descriptor, cipher="none")
    repository.store.put("repository.json", msgspec.json.encode(plain))
    with pytest.raises(DamagedData, match="key slots"):
        repositories.open_repository(repository.store, FIRST)
