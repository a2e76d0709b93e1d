"""Snapshots on disk: written atomically, verified before use, owned by one process."""
