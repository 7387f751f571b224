"""What the tables say of themselves."""

EQUAL = """\
## Equal sequences: (a) the loop, (b) the sweep

The first two were trained here for some seconds (on repeated random tokens, on text); the others
have random weights and real vocabularies. float32, zero baseline. The loop has the batch size that
suits it best (tried warm, up to 128 sequences or 16,384 tokens). Medians of rounds taken by turns,
ratios with their range. Share: of the machine's own rate for square products of 2048, measured in
every round. Memory: most MB beyond what was held before, and what the plan allows itself.

| shape | components | tokens | (a), s | (b), s | (a)/(b) | share of rate | (a), MB | (b), MB | \
largest difference, nats |
|---|---|---|---|---|---|---|---|---|---|"""

PRECISE = """\
## Equal precision: (c) the sweep to a standard error

To the error that the worst component has with half of the pool, by a probe of 32 sequences. The
loop gives every component the sequences that the worst one needs; its seconds are those of the
table above in proportion. The sweep's own pilot is part of its time. What a precision saves depends
on how much components differ, which random weights do not tell: the trained models do.

| shape | pool | smallest by largest deviation | sequences, loop | sequences, sweep: median | \
(a), s | (c), s | (a)/(c) | error not met |
|---|---|---|---|---|---|---|---|---|"""
