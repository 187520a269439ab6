"""The layout of a recipe's folder: names of the folders that steps fill, and of the files in them."""

COLLECTION = "_collection"  # beside the systems, none of which can have this name
TRAINED = "_trained"  # beside the recipes, which share what they train
VECTORS, INDEX, SEARCH, MEASURE, EXPLAIN = "vectors", "index", "search", "measure", "explain"  # steps of a system
# In the folders of the steps that make them.
RUN, LUCENE, JSON, FAISS, MODEL = "run.txt", "lucene", "json", "faiss", "model"
MEASURED, EXPLAINED = "measure.json", "explanations.jsonl"
