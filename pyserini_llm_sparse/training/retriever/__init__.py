"""The models that are trained, their vectors across processes, and gradient caching."""
