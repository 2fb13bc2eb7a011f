"""Wrong configurations and what is said of them, word for word.

``mistakes.golden`` holds them: a line of ``=``, the file, a line of ``-``, and what ``config check`` answers.
After a change on purpose, ``PULLER_GOLDEN=write`` in the environment writes the answers anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from puller.configuration.file import decode
from puller.configuration.mistakes import ConfigurationError

GOLDEN = Path(__file__).with_name("mistakes.golden")
_CASE, _ANSWER = "=" * 40 + "\n", "-" * 40 + "\n"


def cases() -> list[tuple[str, str]]:
    parts = GOLDEN.read_text().split(_CASE)[1:]
    return [(text, answer) for text, _, answer in (part.partition(_ANSWER) for part in parts)]


def told(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        decode(text, Path("puller.toml"))
    return "".join(f"{mistake.text}\n  {mistake.advice}\n" for mistake in caught.value.mistakes)


def test_every_mistake_is_told_well() -> None:
    found = [(text, told(text)) for text, _ in cases()]
    if os.environ.get("PULLER_GOLDEN") == "write":
        GOLDEN.write_text("".join(f"{_CASE}{text}{_ANSWER}{answer}" for text, answer in found))
    assert found == cases()
    assert len(found) >= 30


def test_every_answer_names_file_key_or_line_and_remedy() -> None:
    for text, _ in cases():
        with pytest.raises(ConfigurationError) as caught:
            decode(text, Path("puller.toml"))
        for mistake in caught.value.mistakes:
            place = "puller.toml" if mistake.line is None else f"puller.toml:{mistake.line}"
            assert mistake.text.startswith(f"{place}: ")
            assert (mistake.line is None) == (mistake.key != "")
            assert mistake.line is None or 1 <= mistake.line <= text.count("\n") + 1
            assert mistake.key in mistake.message
            assert not mistake.message.endswith(".")
            assert mistake.advice


@pytest.mark.parametrize(
    ("value", "what"), [("[" * 5000 + "]" * 5000, "nested too deep"), ("9" * 5000, "too many digits")]
)
def test_what_the_parser_cannot_take(value: str, what: str) -> None:
    assert what in told(f"a = {value}\n")
