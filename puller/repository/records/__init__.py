"""Small sealed objects that hosts share: condemned and damaged packs."""
