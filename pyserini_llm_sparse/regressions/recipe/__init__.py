"""A recipe: the fields of its YAML file, and the systems that it compares."""
