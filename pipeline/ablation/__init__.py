"""An ablation: which variants of a network are compared, on which data, and in which words.

It is a Python file that defines `ablation = Ablation(...)` (docs/your-own-ablation.md); everything
else in this project works for any such file. `definition` is what it states, `checks` whether that
fits together, `wording` how it calls the difference of two variants, and `loading` loads it, and
the data that it names. `source` is its code, of which `syntax` makes a digest; `recording` notes
which files it reads, by `watching` it, and `inputs` compares these, and its packages, with those of
an earlier run.

May import `data`.
"""
