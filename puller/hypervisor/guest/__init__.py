"""The guest agent: freezing and thawing file systems."""
