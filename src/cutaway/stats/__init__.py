"""Statistics without models: batched logistic regression, scores, intervals by resampling groups."""
