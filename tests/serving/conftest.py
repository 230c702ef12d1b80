"""A registry, and tiny checkpoints to put into it."""

from registry_helpers import add, folder, registry, tmp_path

__all__ = ["add", "folder", "registry", "tmp_path"]
