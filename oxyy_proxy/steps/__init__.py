"""The way of a request, in order; `exchange` is the order, the other files are the steps."""
