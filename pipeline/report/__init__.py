"""Turn finished runs into a report stating each effect with its uncertainty.

`statistics` compares plain arrays. `contrasts` says what is compared in an ablation. `analysis`
turns runs into the records of `findings`, at rates that `learning_rates` picks. `figures`, `tables`
and `sections` present them, `files` and `templates` render pages, and `publish` logs the report.

Uses results, however they were obtained. May import `runs` and what is below it.
"""
