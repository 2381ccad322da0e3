"""Terminal input and output: sentences, tables, views, prompts and safe text. Independent of nodes."""
