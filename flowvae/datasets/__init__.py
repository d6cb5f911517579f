"""Where images come from: one reader per data set, decoding, binarization, and writing."""
