"""The processes of one server: how they are started and replaced, and what they count together."""
