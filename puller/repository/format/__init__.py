"""Pure codecs of stored bytes: docs/format.md in code. Knows no other room."""
