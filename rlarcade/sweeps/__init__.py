"""Many training runs from one file: what they are, where they run, what is shown of them."""
