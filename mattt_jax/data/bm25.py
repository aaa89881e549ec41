"""BM25: which texts share the rare words of a query.

    score(d, q) = sum over words w of q of
      log(1 + (N - n_w + 1/2) / (n_w + 1/2)) f (k1 + 1) / (f + k1 norm_d)

There are N texts, n_w of them with w; f is how often d has it; norm_d = 1 - b +
b |d| / mean |d| (Robertson and Zaragoza, "The Probabilistic Relevance
Framework"; the 1 in the logarithm keeps it positive).
"""

K1, B = 1.2, 0.75  # the usual k1 and b
