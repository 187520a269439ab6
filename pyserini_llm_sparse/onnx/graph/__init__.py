"""The graph of a model, node by node or from an exporter, with the sparse head at its end."""
