"""A local page and a JSON service that examine lesions one at a time."""
