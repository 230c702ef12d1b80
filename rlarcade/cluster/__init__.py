"""Work on many machines: Ray starts processes on them and moves data between them."""
