"""A store that was moved or copied: `detection` finds that out, `relocation` adjusts it."""
