"""Results of commands: the documents for programs, and the text for people."""
