"""One decoder per type of output; `nuriwake.inference.decoding.DECODERS` is the table."""
