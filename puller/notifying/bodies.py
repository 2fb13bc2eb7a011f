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

_LONGEST_CARD = 12_000
"""Teams refuses a message of more than 28 KB, with all of its JSON."""


def body(ending: Ending, style: Style) -> dict[str, Any]:
    """Return the JSON of one message."""
    told = f"{ending.subject}\n{ending.text}"
    if style == "slack":
        # Slack reads <…> as a link or a mention of everybody: "Formatting text for app surfaces".
        return {"text": told.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
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
        "failed": list(ending.failed),
        "advice": ending.advice or None,
        "alarms": [{"domain": domain, "text": text} for domain, text in ending.alarms],
        "seconds": round(ending.seconds, 1),
    }


def _card(ending: Ending) -> dict[str, Any]:
    shown = ending.text[:_LONGEST_CARD].splitlines()
    lines = [{"type": "TextBlock", "text": line, "wrap": True} for line in shown]
    title = {"type": "TextBlock", "text": ending.subject, "weight": "Bolder", "wrap": True}
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [title, *lines],
    }
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "content": card}]}
