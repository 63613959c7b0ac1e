"""What effects are and how certain they are. Plain arrays in, small records out.

`intervals` says how long an interval must be, `comparisons` compares two variants over their seeds,
`images` adds what other test images would change, `sentences` puts a comparison into words, and
`precision` says how many seeds a question needs.

May import nothing else of the pipeline.
"""

FIRST_SEEDS = 5  # of the two-stage design; here, because the rest takes a second to import
