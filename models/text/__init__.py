"""Reading texts: pieces, n-grams, articles, and the scorer of a support task."""
