"""What people see and type: sentences, tables, views, questions, safe text. Knows no node."""
