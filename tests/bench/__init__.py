"""What the product costs, beside what a pod would otherwise run: ``make bench``."""
