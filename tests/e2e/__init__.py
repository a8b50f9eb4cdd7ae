"""The whole product as its users meet it: real processes, the official SDK, a real Prometheus."""
