"""The costs of the product, compared with those of what a pod would otherwise run: ``make bench``."""
