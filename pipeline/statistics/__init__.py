"""What effects are and how certain they are. Plain arrays in, small records out.

`outcomes` says what is compared and how its numbers are shown. `intervals` says how long an
interval must be and how many seeds a margin needs, by `fixed_width` if that decides on seeds, and
by `boundary` for looks that have an end. `comparisons` compares two variants over their seeds, or
by independent runs, and `images` adds what other test images would change. `possible` says which
intervals are shown as numbers, `sentences` puts a comparison into words, and `skewness` says what
skewed differences would do.

May import nothing else of the pipeline but its `errors`.
"""

FIRST_SEEDS = 5  # before the first look; here, because the rest takes a second to import
