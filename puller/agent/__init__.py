"""The use cases: each joins the rooms below for one purpose."""
