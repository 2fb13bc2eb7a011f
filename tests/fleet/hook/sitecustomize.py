"""For workers: notes each pack that is read, and lets no more pass than LIMIT until the file GO exists.

Python imports it in every process that has this directory on its path.
"""

import os
import time
from pathlib import Path

if "PULLER_TEST_READS" in os.environ:
    from puller.repository.reading.packs import StoredPack
    from puller.upkeep.checking.packcheck import PackCheck

    _log = Path(os.environ["PULLER_TEST_READS"])
    _go = _log.with_name("go")
    _limit = int(os.environ["PULLER_TEST_LIMIT"])
    _read = PackCheck._read

    def read(self: PackCheck, number: int, pack: StoredPack) -> None:
        _read(self, number, pack)
        with _log.open("a") as log:
            log.write(f"{os.getpid()} {pack.pack_id.hex()}\n")
        while len(_log.read_bytes().splitlines()) >= _limit and not _go.exists():
            time.sleep(0.02)

    PackCheck._read = read  # type: ignore[method-assign]
