"""Importing this ties the importing process to its parent; for a fork server, see `children`."""

from cache_schema.host.children import end_with_parent

end_with_parent()
