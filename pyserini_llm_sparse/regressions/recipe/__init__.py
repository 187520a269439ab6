"""A recipe: what its YAML file says, validated."""
