"""Policy files: what loads, what does not and where, and reloading."""
