"""A BERT SPLADE of the usual kind, trained on two cores: the sparse baseline where no published one can be had."""
