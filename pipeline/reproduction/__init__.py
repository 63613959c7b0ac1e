"""Whether a run can be repeated from its own record, and whether that gives the same numbers.

`record` reads what a run says of itself, `code` finds the code that it names, `repetition` trains
again with that code, `comparison` compares bit by bit, and `reproduce` does all of it.

May import `runs`, `models`, `store` and what is below them.
"""
