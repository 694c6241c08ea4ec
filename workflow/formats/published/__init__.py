"""SAEs in the file formats of other projects: what is read, what is written, what is folded stands in docs/formats.md."""
