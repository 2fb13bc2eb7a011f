"""Notes of a point: what it lacks, and what changed while it was taken."""

from __future__ import annotations

from puller.events import Notice, Observer


class Notes:
    """The notes of one run over one domain: each is shown to ``observer`` at once and stored in the point."""

    def __init__(self, domain: str, observer: Observer) -> None:
        self._domain = domain
        self._observer = observer
        self._texts: dict[str, None] = {}

    def add(self, text: str) -> None:
        """Note ``text``, one sentence without a full stop. The same text counts once."""
        if text not in self._texts:
            self._texts[text] = None
            self._observer(Notice(self._domain, text))

    @property
    def texts(self) -> tuple[str, ...]:
        """Return all notes so far, in order, for ``Point.notes``."""
        return tuple(self._texts)
