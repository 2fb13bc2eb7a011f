"""The body of a webhook: puller's own JSON, or the form that a chat service expects. Pure.

Sources: docs.slack.dev, "Sending messages using incoming webhooks" (Mattermost and Rocket.Chat take the
same); docs.discord.com, "Execute Webhook", whose content has at most 2,000 characters; learn.microsoft.com,
"Create an incoming webhook" with an Adaptive Card.
"""

from __future__ import annotations

from typing import Any, Literal

from puller.notifying.ending import Ending

Style = Literal["json", "slack", "discord", "teams"]

_LONGEST = 1900


def body(ending: Ending, style: Style) -> dict[str, Any]:
    """Return the JSON of one message."""
    told = f"{ending.subject}\n{ending.text}"
    if style == "slack":
        return {"text": told}
    if style == "discord":
        return {"content": told[:_LONGEST], "allowed_mentions": {"parse": []}}
    if style == "teams":
        return _card(ending)
    return {
        "job": ending.job,
        "host": ending.host,
        "state": ending.state,
        "exit_code": ending.exit_code,
        "summary": ending.summary,
        "failure": ending.failure or None,
        "advice": ending.advice or None,
        "alarms": [{"domain": domain, "text": text} for domain, text in ending.alarms],
        "seconds": round(ending.seconds, 1),
    }


def _card(ending: Ending) -> dict[str, Any]:
    lines = [{"type": "TextBlock", "text": line, "wrap": True} for line in ending.text.splitlines()]
    title = {"type": "TextBlock", "text": ending.subject, "weight": "Bolder", "wrap": True}
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [title, *lines],
    }
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "content": card}]}
