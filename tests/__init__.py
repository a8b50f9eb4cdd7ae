"""The tests; they mirror oxyy_proxy/."""
