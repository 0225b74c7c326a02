"""What a map may say: names with captures, expressions, entries.

Text and Python values become small frozen values, checked as far as that goes without
a checkpoint or a target, and are printed again as they were written. Never looks at a
tensor: shapes are the matter of `layouts`, names in a checkpoint that of `resolution`.

Begin with `expressions`.

- `making`        `src`, `concat`, `stack`, `first_of`
- `expressions`   an expression and its methods; sources and joins
- `nodes`         the other nodes of an expression
- `arithmetic`    `+`, `-` and `*`
- `numbers`       numbers in expressions
- `rows`          rows that vocabularies give
- `limits`        what an expression is not
- `writing`       expressions as text, in full or short
- `rearranging`   patterns of `rearrange`
- `arguments`     checks of what the methods are given
- `literals`      values as text, and back
- `syntax`        text of an expression -> the expression
- `variables`     parameters of a map file in that text
- `captures`      `layer_{i}`: names with captures
- `entries`       entries of a map, plain ones and rules
- `grammar`       a map -> its entries
- `rule_checks`   whether key and value of a rule fit together
- `slot_expressions`   the same for the slots of an optimizer
- `hints`, `capture_hints`   what to write in place of what is no key or capture
- `aliases`       names that Flax and TensorFlow give to the same parameter
"""
