"""The same small packs and cache folder as the tests of upkeep."""

from tests.cli.conftest import cli  # noqa: F401 - a fixture
from tests.upkeep.conftest import small_packs  # noqa: F401 - a fixture
