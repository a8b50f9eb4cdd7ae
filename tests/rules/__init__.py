"""The pure rules: money, windows, chains, JSON and event streams."""
