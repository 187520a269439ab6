"""From a corpus to a folder of vectors, and from vectors to a Lucene index and back."""
