"""Make a reranker of your own: a small student learns the raw scores of a teacher."""
